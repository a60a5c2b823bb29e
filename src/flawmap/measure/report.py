"""One self-contained HTML page: key figures, a histogram of scores, and a row of pictures an image.

Pictures are inside the page as data URIs, the histogram is SVG, nothing is loaded from elsewhere and no script runs,
so the page can be mailed, printed and archived.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flawmap.measure.evaluate import NAMES, Evaluation

LABELS = {
    "image_auroc": ("Image AUROC", "chance that a defective part scores above a good one"),
    "image_ap": ("Image AP", "average precision over parts"),
    "pixel_auroc": ("Pixel AUROC", "chance that a defective pixel is brighter in the map"),
    "pixel_ap": ("Pixel AP", "average precision over pixels"),
    "aupro": ("AUPRO", "overlap with defect regions, up to 30 % false pixels"),
    "f1_max": ("Best F1", "at the best threshold for these images"),
    "escape": ("Escape", "defective parts that pass"),
    "overkill": ("Overkill", "good parts that are rejected"),
}
SHARES = ("escape", "overkill")  # shown as percentages
BINS = 40


@dataclass(frozen=True)
class ReportImage:
    """A row of the page.

    verdict: "good", "defective" or "no threshold"; pictures: (caption, JPEG or PNG bytes) from left to right
    score, threshold: in [0, 1] or None; truth: True for a part known to be defective, None when it is not known
    kind: of the defect; regions: (x, y, width, height, area, peak) each
    """

    name: str
    verdict: str
    pictures: Sequence[tuple[str, bytes]]
    score: float | None = None
    threshold: float | None = None
    truth: bool | None = None
    kind: str = ""
    regions: Sequence[tuple[int, int, int, int, int, float]] = field(default=())

    @property
    def wrong(self) -> str:
        """"missed" or "false alarm" when the verdict contradicts what is known, else ""."""
        if self.truth is None or self.verdict not in ("good", "defective"):
            return ""
        if self.truth and self.verdict == "good":
            return "missed"
        return "false alarm" if not self.truth and self.verdict == "defective" else ""


@dataclass(frozen=True)
class Histogram:
    """Bars of an SVG: (x, height of good, height of defective), all in the SVG's units, and the threshold's x."""

    bars: list[tuple[float, float, float]]
    bar_width: float
    threshold: float | None
    low: float
    high: float


def render_report(
    title: str,
    images: Sequence[ReportImage],
    evaluation: Evaluation | None = None,
    scores: Sequence[tuple[float, bool | None]] = (),
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """The page as text. `scores`: (score, defective or None) of all images, for the histogram."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flawmap.measure"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = data_uri
    threshold = next((image.threshold for image in images if image.threshold is not None), None)
    return environment.get_template("report.html.j2").render(
        title=title,
        images=images,
        figures=_figures(evaluation),
        evaluation=evaluation,
        kinds=_kinds(evaluation),
        histogram=histogram(scores, threshold) if scores else None,
        provenance=dict(provenance or {}),
    )


def data_uri(picture: bytes) -> str:
    """JPEG or PNG bytes as a data URI."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def histogram(scores: Sequence[tuple[float, bool | None]], threshold: float | None) -> Histogram:
    """Bars over 600 x 120 units; heights are square roots of counts, so that a single part stays visible."""
    values = [score for score, _ in scores] + ([threshold] if threshold is not None else [])
    low, high = min(values), max(values)
    span = max(high - low, 1e-9)
    good, bad = [0] * BINS, [0] * BINS
    for score, defective in scores:
        place = min(int((score - low) / span * BINS), BINS - 1)
        (bad if defective else good)[place] += 1
    tallest = math.sqrt(max(*good, *bad, 1))
    width = 600 / BINS
    bars = [
        (round(i * width, 2), round(110 * math.sqrt(g) / tallest, 2), round(110 * math.sqrt(b) / tallest, 2))
        for i, (g, b) in enumerate(zip(good, bad, strict=True))
    ]
    line = None if threshold is None else round((threshold - low) / span * 600, 2)
    return Histogram(bars, width, line, low, high)


def _figures(evaluation: Evaluation | None) -> list[dict[str, str]]:
    if evaluation is None:
        return []
    figures = []
    for name in NAMES:
        value = evaluation.values[name]
        label, meaning = LABELS[name]
        form = (lambda v: f"{v:.1%}") if name in SHARES else (lambda v: f"{v:.3f}")
        text = "–" if math.isnan(value.value) else form(value.value)
        interval = "not measurable here" if math.isnan(value.low) else f"{form(value.low)} … {form(value.high)}"
        figures.append({"label": label, "value": text, "interval": interval, "meaning": meaning})
    return figures


def _kinds(evaluation: Evaluation | None) -> list[tuple[str, int, str]]:
    if evaluation is None:
        return []
    kinds = evaluation.kinds.items()
    return [(kind, evaluation.counts_by_kind[kind], "–" if math.isnan(v.value) else f"{v.value:.3f}") for kind, v in kinds]
