"""The files that a benchmark leaves: index.html, table.md, table.csv, results.json; written anew as often as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flawmap import __version__
from flawmap.benchmark import published
from flawmap.benchmark.page import render_page
from flawmap.benchmark.plan import Job
from flawmap.benchmark.tables import (
    ASKED,
    Row,
    asked_known,
    label,
    markdown,
    summarise,
    table_csv,
    table_json,
    text_of,
)
from flawmap.data.layouts import Listing
from flawmap.errors import DataError
from flawmap.train.loop import write_atomically


def title_of(root: Path, recipe: str, settings: Sequence[str] | None) -> str:
    """`metal: recipe fast, detect.steps=450`."""
    return ", ".join([f"{root.resolve().name}: recipe {Path(recipe).stem}", *(settings or [])])


def write_tables(
    folder: Path, jobs: Sequence[Job], categories: Mapping[str, Listing], title: str, at_once: int = 1
) -> list[str]:
    """Write all that is known so far; returns lines for a terminal. Raises DataError when it cannot be written."""
    rows = summarise(jobs)
    known = published.published(published.data_set_of(categories))
    known = [row for row in known if row.category in ("mean", *categories)]
    seeds = sorted({job.seed for job in jobs})
    remark = remark_on(jobs, at_once)
    text = f"# {title}\n\n{remark}\n\n{markdown(rows)}"
    if asked_known(rows):
        text += f"\nAt thresholds set from each bundle's good photos:\n\n{markdown(rows, ASKED)}"
    if known:
        text += f"\nPublished, each by its own protocol and on its own machine:\n\n{published.markdown(known)}"
    try:
        write_atomically(folder / "table.md", text)
        write_atomically(folder / "table.csv", table_csv(rows))
        write_atomically(folder / "results.json", table_json(rows, jobs))
        page = render_page(title, remark, jobs, rows, known)
        write_atomically(folder / "index.html", page)
    except OSError as problem:
        raise DataError(f"cannot write to {folder}: {problem.strerror}") from problem
    return [_for_terminal(row, len(seeds)) for row in rows]


def remark_on(jobs: Sequence[Job], at_once: int) -> str:
    """What a reader must know of the table, in sentences."""
    results = [result for job in jobs if (result := job.result()) is not None]
    seeds = len({job.seed for job in jobs})
    spread = f"Mean ± sample standard deviation over {seeds} seeds" if seeds > 1 else "One seed, so no spread is known"
    protocols = ", ".join(sorted({result["protocol"] for result in results}))
    machines = "; ".join(sorted({str(result["machine"]) for result in results}))
    beside = f" {at_once} trainings ran side by side, which lengthens times." if at_once > 1 else ""
    where = f" Protocol {protocols}. Machine: {machines}." if results else ""
    return f"{spread}; flawmap {__version__}.{where}{beside} Escape at 1 % overkill is told from the test parts alone."


def _for_terminal(row: Row, seeds: int) -> str:
    shown = ("image_auroc", "image_ap", "pixel_ap", "escape_at_overkill", "minutes")
    width = 15 if seeds > 1 else 7
    names = {"image_auroc": "AUROC", "image_ap": "AP", "pixel_ap": "pixel AP", "escape_at_overkill": "escape at 1 %"}
    figures = "  ".join(f"{names.get(name, 'min')} {text_of(name, row.cells[name]):<{width}}" for name in shown)
    return f"{label(row):<24} {figures}".rstrip()
