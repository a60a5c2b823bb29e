"""What is done with a finished bundle: inspect images, inspect folders, evaluate."""
