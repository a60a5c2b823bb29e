"""Images, folder layouts, masks and drawn sample parts."""
