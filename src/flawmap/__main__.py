"""`python -m flawmap`: the same as the command `flawmap`."""

from __future__ import annotations

from flawmap.cli import main

if __name__ == "__main__":
    main()
