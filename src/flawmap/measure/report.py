"""One self-contained HTML page: key figures, a histogram of scores, and a row of pictures an image.

Pictures are inside the page as data URIs, the histogram is SVG, nothing is loaded from elsewhere and no script runs,
so the page can be mailed, printed and archived. Verdicts are words as well as colours, and the colours are blue and
orange, which are told apart without red/green vision.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flawmap.measure.evaluate import NAMES, Evaluation, Value

if TYPE_CHECKING:
    from jinja2 import Environment

LABELS = {
    "image_auroc": ("Image AUROC", "chance that a defective part scores above a good one"),
    "image_ap": ("Image AP", "average precision over parts"),
    "pixel_auroc": ("Pixel AUROC", "chance that a defective pixel is brighter in the map"),
    "pixel_ap": ("Pixel AP", "average precision over pixels"),
    "seg_f1": ("SegF1", "pixel F1 of all parts at the pixel threshold that good photos set"),
    "aupro": ("AUPRO", "overlap with defect regions, up to 30 % false pixels"),
    "f1_max": ("Best F1", "at the best threshold for these images"),
    "escape": ("Escape", "defective parts that pass"),
    "overkill": ("Overkill", "good parts that are rejected"),
}
SHARES = ("escape", "overkill")  # shown as percentages
BINS = 40
WIDTH, HEIGHT = 1000, 150  # of the histogram's bars, in units of its SVG
REGIONS = 10  # listed for an image, largest peak first


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
        """What is wrong with the verdict, "missed" or "false alarm"; empty when nothing is, or the truth unknown."""
        if self.truth is None or self.verdict not in ("good", "defective"):
            return ""
        if self.truth and self.verdict == "good":
            return "missed"
        return "false alarm" if not self.truth and self.verdict == "defective" else ""


@dataclass(frozen=True)
class Histogram:
    """Bars of an SVG: (x, height of good, height of defective), in its units, the threshold's x and its ticks.

    ticks: (x, text) of the axis
    """

    bars: list[tuple[float, float, float]]
    bar_width: float
    threshold: float | None
    ticks: list[tuple[float, str]]
    known: bool


def render_report(
    title: str,
    images: Sequence[ReportImage],
    evaluation: Evaluation | None = None,
    scores: Sequence[tuple[float, bool | None]] = (),
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """The page as text: `images` in their order, but wrong verdicts first.

    `scores`: (score, defective or None) of all images, also those not shown, for the histogram.
    """
    threshold = next((image.threshold for image in images if image.threshold is not None), None)
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            images=sorted(images, key=lambda image: not image.wrong),
            total=len(scores),
            figures=_figures(evaluation),
            evaluation=evaluation,
            remarks=_remarks(evaluation),
            warning=_warning(evaluation),
            asked=_asked(evaluation),
            kinds=_kinds(evaluation),
            histogram=histogram(scores, threshold) if scores else None,
            width=WIDTH,
            height=HEIGHT,
            most_regions=REGIONS,
            largest=max((value for image in images for value in (image.score, image.threshold) if value), default=1.0),
            provenance=dict(provenance or {}),
        )
    )


def page_environment() -> Environment:
    """What pages are made with: templates/ and its filters; whatever is filled in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flawmap.measure"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, "short": short}
    return environment


def data_uri(picture: bytes) -> str:
    """JPEG or PNG bytes as a data URI."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def short(score: float) -> str:
    """A score with enough figures to compare it with its threshold: 0.314, 0.00271, 0.999962."""
    rest = min(abs(score), abs(1 - score)) or 1.0
    return f"{score:.{min(max(2 - math.floor(math.log10(rest)), 3), 8)}f}"


def histogram(scores: Sequence[tuple[float, bool | None]], threshold: float | None) -> Histogram:
    """Bars over WIDTH x HEIGHT units; heights are square roots of counts, so that a single part stays visible."""
    values = [score for score, _ in scores] + ([threshold] if threshold is not None else [])
    low, high = min(values), max(values)
    span = max(high - low, 1e-9)
    good, bad = [0] * BINS, [0] * BINS
    for score, defective in scores:
        place = min(int((score - low) / span * BINS), BINS - 1)
        (bad if defective else good)[place] += 1
    tallest = math.sqrt(max(*good, *bad, 1))
    width = WIDTH / BINS
    bars = [
        (round(i * width, 2), round(HEIGHT * math.sqrt(g) / tallest, 2), round(HEIGHT * math.sqrt(b) / tallest, 2))
        for i, (g, b) in enumerate(zip(good, bad, strict=True))
    ]
    line = None if threshold is None else round((threshold - low) / span * WIDTH, 2)
    ticks = [(round(part * WIDTH / 4, 2), f"{low + span * part / 4:.3g}") for part in range(5)]
    return Histogram(bars, width, line, ticks, known=any(defective is not None for _, defective in scores))


def _figures(evaluation: Evaluation | None) -> list[dict[str, str]]:
    if evaluation is None:
        return []
    figures = []
    for name in NAMES:
        label, meaning = LABELS[name]
        value, interval = _words(evaluation.values[name], share=name in SHARES)
        figures.append({"label": label, "value": value, "interval": interval, "meaning": meaning})
    return figures


def _words(value: Value, share: bool = False) -> tuple[str, str]:
    """A value and its interval as text."""

    def form(number: float) -> str:
        return f"{100 * number:.1f} %" if share else f"{number:.3f}"

    if math.isnan(value.value):
        return "–", "not measurable here"
    if math.isnan(value.low):
        return form(value.value), "one image is too few for an interval"
    return form(value.value), f"95 %: {form(value.low)} … {form(value.high)}"


def _remarks(evaluation: Evaluation | None) -> list[str]:
    """Sentences that a reader of the figures needs."""
    if evaluation is None:
        return []
    remarks = []
    if evaluation.protocol != "full":
        remarks.append(f"Protocol {evaluation.protocol}.")
    if evaluation.without_mask:
        remarks.append(f"Left out of localization for want of a mask: {evaluation.without_mask} defective.")
    if evaluation.empty_mask:
        how = ", left out of localization" if evaluation.protocol == "full" else " at the map's size"
        remarks.append(f"With a mask that marks nothing{how}: {evaluation.empty_mask} defective.")
    remarks += [f"{note[0].upper()}{note[1:]}." for note in evaluation.mask_notes]
    if evaluation.learnt_from:
        remarks.append(f"Left out, since they were learnt from as real defects: {evaluation.learnt_from}.")
    if evaluation.left_out is not None:
        remarks.append(f"{evaluation.left_out.sentence}.")
    if any(value.low == value.high == 1 for value in (*evaluation.values.values(), *evaluation.kinds.values())):
        remarks.append("An interval of one value, 1, only says that these parts were told apart without fault.")
    return remarks


def _warning(evaluation: Evaluation | None) -> str:
    """What makes the threshold worth nothing here; empty where nothing is known to."""
    return "" if evaluation is None or evaluation.good_parts is None else evaluation.good_parts.sentence


def _asked(evaluation: Evaluation | None) -> list[tuple[str, str, str, str, str]]:
    """A row an overkill asked for: it, escape, overkill, threshold, whether there are photos enough to promise it."""
    if evaluation is None:
        return []
    return [
        (
            f"{100 * one.asked:g} %",
            _words(Value(one.escape), share=True)[0],
            _words(Value(one.overkill), share=True)[0],
            short(one.threshold),
            "enough" if one.supported else "too few",
        )
        for one in evaluation.escape_at
    ]


def _kinds(evaluation: Evaluation | None) -> list[tuple[str, int, str, str]]:
    if evaluation is None:
        return []
    return [(kind, evaluation.counts_by_kind[kind], *_words(value)) for kind, value in evaluation.kinds.items()]
