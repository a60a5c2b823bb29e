"""The command line: thin commands over the public functions. A user's mistake is one line and exit code 2.

Everything heavy is imported inside the command that needs it, so that `flawmap --help` answers at once.
"""

from __future__ import annotations

# Commands are listed by `flawmap --help` in the order in which they are imported.
# isort: off
from flawmap.cli import train
from flawmap.cli import inspect
from flawmap.cli import analyse
from flawmap.cli import sets
from flawmap.cli import station

# isort: on
from flawmap.cli.console import EXIT_INTERRUPTED, EXIT_MISTAKE, READ_PHOTOS, app, parse_share, printable

__all__ = [
    "EXIT_INTERRUPTED",
    "EXIT_MISTAKE",
    "READ_PHOTOS",
    "analyse",
    "app",
    "inspect",
    "main",
    "parse_share",
    "printable",
    "sets",
    "station",
    "train",
]


def main() -> None:
    """Run the command line."""
    app()
