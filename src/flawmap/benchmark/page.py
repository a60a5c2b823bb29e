"""A benchmark as one self-contained HTML page: the table, published figures beside it, and what to look at by category.

Pictures: the defective part found best, the defective part that scores lowest, the good part that scores highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawmap.benchmark.plan import EVALUATION, Job
from flawmap.benchmark.published import METRICS, Published
from flawmap.benchmark.tables import ASKED, COLUMNS, Row, asked_known, label, text_of
from flawmap.measure.report import page_environment

TITLES = {
    "best-found": "Defect found best",
    "worst-missed": "Defect that scores lowest",
    "worst-false-alarm": "Good part that scores highest",
}


@dataclass(frozen=True)
class Extreme:
    """A part to look at, with its pictures by caption."""

    title: str
    image: str
    kind: str
    score: float
    verdict: str
    pictures: dict[str, bytes]


@dataclass(frozen=True)
class Category:
    """What the page shows of one category: of its first seed that is done."""

    name: str
    seed: int
    report: str
    facts: str
    extremes: list[Extreme]


def render_page(title: str, remark: str, jobs: Sequence[Job], rows: Sequence[Row], known: Sequence[Published]) -> str:
    """The page as text; links lead to each job's own report, relative to the benchmark's folder."""
    shown: dict[str, Category] = {}
    errors = []
    for job in jobs:
        result = job.result()
        if result is None:
            errors.append((job.name, job.error() or "not run"))
        elif job.category not in shown:
            shown[job.category] = _category(job, result)
    return (
        page_environment()
        .get_template("benchmark.html.j2")
        .render(
            title=title,
            remark=remark,
            tables=[
                {
                    "title": heading,
                    "heads": [words for words, _ in columns.values()],
                    "rows": [(label(row), [text_of(name, row.cells[name]) for name in columns]) for row in rows],
                }
                for heading, columns in (("Measured", COLUMNS), ("At thresholds set from good photos", ASKED))
                if rows and (columns is COLUMNS or asked_known(rows))
            ],
            metrics=list(METRICS.values()),
            published={
                part: [
                    (row, [row.figures.get(name) for name in METRICS])
                    for row in sorted(known, key=lambda row: row.category)
                    if (row.category == "mean") == (part == "means")
                ]
                for part in ("means", "categories")
            },
            categories=list(shown.values()),
            errors=errors,
        )
    )


def _category(job: Job, result: dict[str, Any]) -> Category:
    extremes = []
    for name, title in TITLES.items():
        part = result["extremes"][name]
        files: dict[str, str] = part["pictures"]
        pictures = {caption: (job.folder / file).read_bytes() for caption, file in files.items()}
        extremes.append(Extreme(title, part["image"], part["kind"], part["score"], part["verdict"], pictures))
    metrics = result["metrics"]
    facts = (
        f"{result['trained_on']} good parts learned from, {result['held_out']} held out, "
        f"{metrics['good']} good and {metrics['defective']} defective tested"
    )
    report = Path(job.folder.parent.name, job.folder.name, EVALUATION, "report.html")
    return Category(job.category, job.seed, report.as_posix(), facts, extremes)
