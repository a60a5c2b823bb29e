"""`make demo`: draw sample parts, learn from the good ones, find the defects of the others, show it all on a page.

Everything lands in one folder: index.html, metrics.json, images.csv, the parts, and the bundle.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from flawmap.config import load_recipe
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.deploy.evaluation import evaluate, table
from flawmap.deploy.inspector import Inspector
from flawmap.errors import ConfigError, FlawmapError
from flawmap.train.run import train

SIZE = 128  # pixels a side of a drawn part
TRAIN, GOOD, BAD = 120, 30, 40  # parts to learn from, and good and defective ones to test with
PARTS, BUNDLE, PAGE = "parts", "part.bundle", "index.html"


def demo(
    folder: Path, surface: str = "brushed-metal", settings: list[str] | None = None, quiet: bool = False, seed: int = 0
) -> Path:
    """Run the demo in `folder`, replacing what an earlier one left there; returns the path of its page.

    Raises ConfigError for an unknown surface or setting.
    """
    started = time.monotonic()
    if surface not in SURFACES:
        raise ConfigError(f"no surface {surface}; there are: {', '.join(SURFACES)}")
    recipe = load_recipe("demo", settings)
    for name in (PARTS, BUNDLE, BUNDLE + ".run"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_sample_parts(folder / PARTS, surface, SIZE, TRAIN, GOOD, BAD, seed)
    print(f"drew {TRAIN} good parts of {surface} to learn from, {GOOD} good and {BAD} defective ones to test with")
    listing = read_layout(folder / PARTS)
    bundle = train(listing, recipe, folder / BUNDLE, quiet=quiet)
    evaluation = evaluate(
        Inspector(bundle), listing, folder, overwrite=True, page=PAGE, title=f"flawmap demo: {surface}"
    )
    print("\n".join(table(evaluation)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(f"{(time.monotonic() - started) / 60:.1f} min, peak memory {peak:.0f} MB")
    print(f"open {folder / PAGE}")
    return folder / PAGE


def main(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("demo"),
    surface: Annotated[
        str, typer.Option("--surface", help="Which surface; a wrong name lists them.")
    ] = "brushed-metal",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Change one setting.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on the terminal.")] = False,
) -> None:
    """Draw sample parts, learn from the good ones, find the defects of the others."""
    try:
        demo(folder, surface, settings, quiet)
    except FlawmapError as problem:
        typer.echo(f"flawmap: {problem}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
    app.command()(main)
    app()
