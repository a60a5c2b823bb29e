"""What a benchmark came to, a row a category: mean and spread over seeds, as Markdown, csv and JSON.

Spread is the sample standard deviation over seeds; with one seed there is none to tell.
"""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flawmap.benchmark.plan import Job
from flawmap.measure.evaluate import OVERKILLS
from flawmap.tables import TableWriter

# name in results.json: what it is called in a table, decimals. Shares are fractions.
COLUMNS = {
    "image_auroc": ("image AUROC", 3),
    "image_ap": ("image AP", 3),
    "pixel_auroc": ("pixel AUROC", 3),
    "pixel_ap": ("pixel AP", 3),
    "seg_f1": ("SegF1", 3),
    "aupro": ("AUPRO", 3),
    "escape_at_overkill": ("escape at 1 % overkill", 3),
    "ms_an_image": ("ms an image", 1),
    "minutes": ("min to train", 1),
    "peak_memory_mb": ("peak MB", 0),
}
MEASURED = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "seg_f1", "aupro")  # those of an evaluation
# A table of its own: at thresholds that each bundle's good photos set for an overkill.
ASKED = {
    f"{share}_at_{asked:g}": (f"{share} at {100 * asked:g} % asked", 3)
    for asked in OVERKILLS
    for share in ("escape", "overkill")
}
ALL = COLUMNS | ASKED
MEAN = "mean"


@dataclass(frozen=True)
class Cell:
    """A figure over seeds: mean, sample standard deviation (None with one), of how many."""

    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True)
class Row:
    """One category, or the mean of all: figures by the names in ALL, None where nothing could be measured.

    failed: how many of its jobs ended with an error; not_run: how many were not run, or were stopped
    """

    category: str
    cells: dict[str, Cell | None]
    failed: int = 0
    not_run: int = 0


def summarise(jobs: Sequence[Job]) -> list[Row]:
    """A row for each category in the order of `jobs`, and with several categories their mean.

    The mean's spread is that of the mean over all categories, seed by seed; only where no job is missing.
    """
    values: dict[str, dict[int, dict[str, float]]] = {}
    failed: dict[str, int] = {}
    not_run: dict[str, int] = {}
    for job in jobs:
        by_seed = values.setdefault(job.category, {})
        result = job.result()
        why = job.error() if result is None else ""
        failed[job.category] = failed.get(job.category, 0) + (why != "")
        not_run[job.category] = not_run.get(job.category, 0) + (result is None and why == "")
        if result is not None:
            by_seed[job.seed] = figures(result)
    rows = []
    for category, by_seed in values.items():
        cells = {name: _cell([found[name] for found in by_seed.values() if name in found]) for name in ALL}
        rows.append(Row(category, cells, failed[category], not_run[category]))
    if len(rows) > 1:
        means = {name: _mean(name, values) for name in ALL}
        rows.append(Row(MEAN, means, sum(failed.values()), sum(not_run.values())))
    return rows


def figures(result: dict[str, Any]) -> dict[str, float]:
    """The figures of one job by the names in ALL; what was not or could not be measured is left out."""
    metrics = result["metrics"]
    found = {name: metrics[name]["value"] for name in MEASURED if name in metrics}  # an earlier flawmap had fewer
    found |= {name: result[name] for name in COLUMNS if name not in MEASURED}
    for asked, shares in metrics.get("escape_at", {}).items():
        found |= {f"{share}_at_{asked}": shares[share] for share in ("escape", "overkill")}
    return {name: float(value) for name, value in found.items() if name in ALL and value is not None}


def text_of(name: str, cell: Cell | None) -> str:
    """A figure as a table shows it: `0.912 ± 0.004`, or a dash."""
    if cell is None:
        return "–"
    decimals = ALL[name][1]
    spread = "" if cell.spread is None else f" ± {cell.spread:.{decimals}f}"
    return f"{cell.mean:.{decimals}f}{spread}"


def markdown(rows: Sequence[Row], columns: Mapping[str, tuple[str, int]] = COLUMNS) -> str:
    """The table as Markdown: of COLUMNS, or of ASKED."""
    lines = [_line("category", *(words for words, _ in columns.values())), _line(*["---"] * (1 + len(columns)))]
    for row in rows:
        lines.append(_line(label(row), *(text_of(name, row.cells[name]) for name in columns)))
    return "\n".join(lines) + "\n"


def asked_known(rows: Sequence[Row]) -> bool:
    """Whether anything is known at thresholds set from good photos, so that the table of ASKED has a figure."""
    return any(row.cells[name] is not None for row in rows for name in ASKED)


def label(row: Row) -> str:
    """A row's name, with how many of its jobs failed and how many were not run."""
    counts = [f"{row.failed} failed"] * (row.failed > 0) + [f"{row.not_run} not run"] * (row.not_run > 0)
    return row.category + (f" ({', '.join(counts)})" if counts else "")


def table_csv(rows: Sequence[Row]) -> str:
    """The table as csv, numbers in full: for each figure its mean, spread and number of seeds."""
    text = io.StringIO()
    writer = TableWriter(text, end="\n")
    writer.writerow(
        ["category", *(f"{name}{end}" for name in ALL for end in ("", "_spread", "_seeds")), "failed", "not_run"]
    )
    for row in rows:
        cells: list[object] = []
        for name in ALL:
            cell = row.cells[name]
            cells += (
                ["", "", 0] if cell is None else [cell.mean, "" if cell.spread is None else cell.spread, cell.seeds]
            )
        writer.writerow([row.category, *cells, row.failed, row.not_run])
    return text.getvalue()


def table_json(rows: Sequence[Row], jobs: Sequence[Job]) -> str:
    """All there is: the table, and each job's result or error."""
    return (
        json.dumps(
            {
                "rows": [
                    {
                        "category": row.category,
                        "failed": row.failed,
                        "not_run": row.not_run,
                        **{name: None if cell is None else vars(cell) for name, cell in row.cells.items()},
                    }
                    for row in rows
                ],
                "jobs": [
                    job.result() or {"category": job.category, "seed": job.seed, "error": job.error() or "not run"}
                    for job in jobs
                ],
            },
            indent=2,
        )
        + "\n"
    )


def _cell(values: Sequence[float]) -> Cell | None:
    if not values:
        return None
    return Cell(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _mean(name: str, values: dict[str, dict[int, dict[str, float]]]) -> Cell | None:
    """Mean over the categories that have the figure."""
    by_category = [[found[name] for found in by_seed.values() if name in found] for by_seed in values.values()]
    by_category = [found for found in by_category if found]
    if not by_category:
        return None
    seeds = {frozenset(seed for seed, found in by_seed.items() if name in found) for by_seed in values.values()}
    if len(seeds) == 1:  # every category was measured with the same seeds
        (common,) = seeds
        each = [statistics.mean(by_seed[seed][name] for by_seed in values.values()) for seed in sorted(common)]
        return _cell(each)
    mean = statistics.mean(statistics.mean(found) for found in by_category)
    return Cell(mean, None, min(len(found) for found in by_category))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
