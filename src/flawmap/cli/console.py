"""What all commands share: how they are registered, what they say, how they refuse, and what several of them read."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flawmap import __version__
from flawmap.cli.options import Damaged
from flawmap.errors import ConfigError, FlawmapError

if TYPE_CHECKING:
    from flawmap.data.layouts import Listing
    from flawmap.measure.threshold import Threshold

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Learns from images of good parts alone, then finds and outlines defects on new ones.",
    epilog="Start with: flawmap train GOOD_PARTS --out part.bundle, then flawmap inspect part.bundle NEW_IMAGES",
)
READ_PHOTOS = (  # each of these has the option --damaged
    "pretrain", "train", "inspect", "refine", "suspects", "evaluate", "check", "limits", "repeat", "explain",
    "threshold", "export", "benchmark", "serve", "watch",
)  # fmt: skip
Item = TypeVar("Item")


def command(name: str, when_stopped: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose FlawmapError and Ctrl-C each become one line."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def speaking(*args: Any, **kwargs: Any) -> None:
            try:
                with _damaged(kwargs.pop("damaged", None)):
                    function(*args, **kwargs)
            except FlawmapError as problem:
                fail(str(problem))
            except OSError as problem:
                if problem.errno != errno.ENAMETOOLONG:
                    raise
                fail(f"{str(problem.filename)[:100]}…: longer than a file's name can be; give another")
            except KeyboardInterrupt:
                typer.echo(f"\nflawmap: stopped; {when_stopped}", err=True)
                raise typer.Exit(EXIT_INTERRUPTED) from None

        if name in READ_PHOTOS:
            signature = inspect.signature(function, eval_str=True)
            option = inspect.Parameter("damaged", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Damaged)
            speaking.__signature__ = signature.replace(  # type: ignore[attr-defined]
                parameters=[*signature.parameters.values(), option]
            )
            speaking.__annotations__ = {**function.__annotations__, "damaged": Damaged}
        return app.command(name)(speaking)

    return register


@contextmanager
def _damaged(choice: str | None) -> Iterator[None]:
    """Hold to --damaged meanwhile, and tell at the end what was remarked on the photos read."""
    if choice not in (None, "refuse", "accept"):
        raise ConfigError(f"--damaged {choice}: expected refuse or accept")
    before = os.environ.get("FLAWMAP_DAMAGED")
    if choice is not None:
        os.environ["FLAWMAP_DAMAGED"] = choice  # read by data.images, and by processes started from here
    try:
        yield
    finally:
        if choice is not None:
            os.environ.pop("FLAWMAP_DAMAGED")
            if before is not None:
                os.environ["FLAWMAP_DAMAGED"] = before
        read = sys.modules.get("flawmap.data.images")
        for line in read.remarks() if read else ():
            remark(line)


def fail(message: str) -> None:
    """End the command with one line and exit code 2."""
    typer.echo(f"flawmap: {printable(message)}", err=True)
    raise typer.Exit(EXIT_MISTAKE) from None


def printable(text: object) -> str:
    """Text that any terminal can show: file names need not be valid Unicode, nor in the terminal's encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    return str(text).encode(encoding, "backslashreplace").decode(encoding)


def say(text: object) -> None:
    """Write a line to stdout."""
    typer.echo(printable(text))


def remark(text: str) -> None:
    """Write a line to stderr."""
    typer.echo(f"flawmap: {printable(text)}", err=True)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.", is_eager=True)] = False,
    table_language: Annotated[
        str | None,
        typer.Option(
            "--table-language", envvar="FLAWMAP_TABLES", metavar="LANGUAGE",
            help="Write csv for the spreadsheet of a language, as `de`: before the command.",
        ),
    ] = None,
) -> None:  # fmt: skip
    if table_language is not None:
        os.environ["FLAWMAP_TABLES"] = table_language
    if version:
        typer.echo(f"flawmap {__version__}")
        raise typer.Exit


def parse_share(text: str, option: str = "--overkill", what: str = "of good parts") -> float:
    """`0.5%` or `0.005` as 0.005. Raises ConfigError."""
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise ConfigError(f"{option} {text}: expected a share {what}, as 0.5% or 0.005")
    return share


def amount(text: str, option: str) -> float:
    """`2%` or `0.02` as 0.02, and 0 too. Raises ConfigError."""
    try:
        if float(text.strip().removesuffix("%")) == 0:
            return 0.0
    except ValueError:
        pass  # parse_share says what to give
    return parse_share(text, option, "of the range")


def number(text: str, option: str) -> float:
    """A positive number. Raises ConfigError."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e6:
        raise ConfigError(f"{option} {text}: expected numbers above 0, as 2,4,8")
    return number


def listing(data: Path, layout: str, category: str | None) -> Listing:
    """Read a data set, and say what was recognised and left out. Raises LayoutError."""
    from flawmap.data.layouts import read_layout

    listing = read_layout(data, layout, category)
    for note in listing.notes:
        say(note)
    return listing


def images(paths: Sequence[Path], out: Path | None = None) -> tuple[list[Path], list[Path]]:
    """(images to try, hidden ones that are not); what is passed over is said, but for files of an earlier run in `out`.

    Raises DataError when there is none.
    """
    from flawmap.data.layouts import gather

    found = gather(paths)
    if out is not None:
        found = found._replace(left=[item for item in found.left if not item[0].is_relative_to(out)])
    for line in found.sentences():
        say(line)
    return found.images, found.hidden


def hidden(folder: Path) -> list[Path]:
    """Hidden images of a folder, which a function passed over and told."""
    from flawmap.data.layouts import gather

    return gather([folder]).hidden


def refuse_passed_over(images: Sequence[Path], as_: str = "hidden", cure: str = "name them outright") -> None:
    """End with exit code 2 where there are `images` that were passed over, as they are `as_`; `cure`: what to do."""
    if images:
        more = ", …" * (len(images) > 1)
        fail(f"{len(images)} images were passed over, as they are {as_}: {images[0]}{more}; {cure}")


def watched(items: Iterable[Item], total: int, what: str) -> list[Item]:
    """All of `items`, about `total`, with a bar on a terminal while they are made."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return list(track(items, what, total, console=console, transient=True, disable=not console.is_terminal))


def say_threshold(threshold: Threshold | None) -> None:
    """Say a threshold and what it was set from; nothing for None."""
    if threshold is None:
        return
    if threshold.method == "given":
        say(f"threshold {threshold.score:.6g}, as given")
    else:
        basis = f"{threshold.held_out} good images ({threshold.method})"
        say(f"threshold {threshold.score:.6g} for an overkill of {threshold.overkill * 100:.3g}%, from {basis}")
    if threshold.note:
        say(threshold.note)
