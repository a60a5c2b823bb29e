"""Measure a bundle on labelled images, and set its threshold from them (METHOD 4; measure/ holds the arithmetic)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from os import PathLike
from pathlib import Path

import numpy as np

from flawmap.bundle import Bundle, sha256
from flawmap.data.images import resize_map, resize_mask
from flawmap.data.layouts import Listing, Sample
from flawmap.data.layouts.read import listing_of
from flawmap.data.masks import MaskReader
from flawmap.data.scope import Scope
from flawmap.data.spare import SpareFile
from flawmap.deploy.batch import SHOWN, page_provenance, prepare_folder, report_image, unless_refused
from flawmap.deploy.inspector import Inspection, Inspector, inspector_of
from flawmap.errors import BundleError, ConfigError, DataError, LayoutError
from flawmap.given import place_given
from flawmap.measure.evaluate import (
    OVERKILLS,
    AtOverkill,
    Evaluation,
    ImageResult,
    at_overkill,
    evaluate_results,
    write_evaluation,
)
from flawmap.measure.exchangeability import GoodParts, compare_good
from flawmap.measure.near_duplicates import LeftOut, Near, Without
from flawmap.measure.reconstruction import worth_drawing
from flawmap.measure.report import ReportImage, render_report
from flawmap.measure.runs import RunMask
from flawmap.measure.threshold import Groups, Threshold, choose_threshold, threshold_from_labelled

PROTOCOLS = ("full", "network", "authors")
METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "seg_f1": "SegF1 at the pixel threshold",
    "aupro": "AUPRO at 30 % FPR",
    "f1_max": "best F1",
    "escape": "escape (defects missed)",
    "overkill": "overkill (good rejected)",
}


def evaluate(
    inspector: Inspector | Bundle | str | PathLike[str],
    listing: Listing | str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    protocol: str = "full",
    overwrite: bool = False,
    page: str = "report.html",
    title: str = "",
    without: Without | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Evaluation:
    """Score the test images of `listing` and measure; with `out`, write metrics.json, images.csv and the report there.

    `inspector` may be a bundle or its folder, `listing` a folder of photos or a csv, of whose notes `say` is told.

    `protocol`: `full`, the map at the photo's own size, `network`, the map as the network gives it against masks
    resized by nearest neighbour, or `authors`, the central 224x224. A defective image without a mask counts for
    detection and is left out of localization, as by `full` is one whose mask marks no pixel. Images that the bundle
    was trained on as defective take no part (`Evaluation.learnt_from`). SegF1 is taken at the bundle's pixel threshold.
    `without`: each test photo is scored without the training photos near it, one at a time in PyTorch; the files are
    then named by the rule (`files_without`) and written beside others.
    Raises ImageError for an image or mask that cannot be used, LayoutError when there are no test images, DataError
    when `out` is not empty and `overwrite` is not given.
    """
    check_protocol(protocol)
    out = None if out is None else place_given(out, "out", ConfigError)
    listing = listing_of(listing, say)
    samples = [sample for sample in listing.test if sample.defective is not None]
    if not samples:
        raise LayoutError(
            f"{listing.root}: no labelled test images; expected good and defective ones, see docs/data.md"
        )
    inspector = inspector_of(inspector)
    samples, learnt = not_learnt_from(inspector.bundle, samples)
    ending = "" if without is None else _ending(without.near)
    page = f"{Path(page).stem}{ending}{Path(page).suffix}"
    with unless_refused(out):
        if out is not None and without is None:
            prepare_folder(out, ("metrics.json", "images.csv", page), overwrite)
        elif out is not None and without is not None:
            prepare_beside(out, files_without(without.near), overwrite)
        rows: list[ImageResult] = []
        shown: list[ReportImage] = []
        masks = MaskReader()
        spare = SpareFile() if inspector.tiled else None
        limit = math.nan if inspector.bundle.threshold is None else inspector.bundle.threshold.pixel
        drawn = worth_drawing(inspector.bundle.provenance)
        for sample, found in _inspected(inspector, samples, without):
            row = _row(sample, found, listing.root, protocol, limit, masks, inspector.scope)
            rows.append(row if spare is None else _spared(row, spare))
            if out is not None:
                shown.append(report_image(row.image, found, row.defective, row.kind, drawn))
            if len(shown) == 4 * SHOWN:  # what is not worth seeing among these is not among all
                shown = _worth_seeing(shown)
        evaluation = replace(
            evaluate_results(rows, protocol),
            learnt_from=learnt,
            mask_notes=tuple(masks.sentences()),
            escape_at=escapes(inspector.bundle, rows),
            good_parts=good_parts(inspector.bundle, rows),
            left_out=None
            if without is None
            else LeftOut(without.near, tuple(without.counts[sample.image] for sample in samples)),
        )
        if out is not None:
            write_evaluation(out, evaluation, rows, ending)
            text = render_report(
                title or f"{listing.name}: {len(rows)} test images",
                _worth_seeing(shown),
                evaluation,
                scores=[(row.score, row.defective) for row in rows],
                provenance=page_provenance(inspector.bundle),
            )
            (out / page).write_text(text, encoding="utf-8", errors="backslashreplace")
    return evaluation


def files_without(near: Near) -> tuple[str, str, str]:
    """Names of the files of an evaluation without near-duplicates by this rule: figures, a row per image, report."""
    ending = _ending(near)
    return f"metrics{ending}.json", f"images{ending}.csv", f"report{ending}.html"


def _ending(near: Near) -> str:
    return f"-without-{near.tag}"


def prepare_beside(out: Path, names: Sequence[str], overwrite: bool) -> None:
    """Make the folder `out` ready for files of these names, beside others that it may hold.

    Raises DataError when one of them is there and `overwrite` is not given, or when `out` cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DataError(f"cannot write to {out}: {problem.strerror or problem}") from problem
    if not overwrite and (there := [name for name in names if (out / name).exists()]):
        raise DataError(f"{out / there[0]} exists; choose another --out, or --overwrite it")


def not_learnt_from(bundle: Bundle, samples: Sequence[Sample]) -> tuple[list[Sample], int]:
    """(those of `samples` whose files were not learnt from as real defects, how many were).

    Raises LayoutError when none is left.
    """
    learnt = set(bundle.provenance.get("real_defects") or [])
    try:
        kept = [sample for sample in samples if not learnt or sha256(sample.image) not in learnt]
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read ({problem.strerror}); correct or remove it") from problem
    if not kept:
        raise LayoutError("all of these images were learnt from as real defects; measure on others")
    return kept, len(samples) - len(kept)


def escapes(bundle: Bundle, rows: Sequence[ImageResult]) -> tuple[AtOverkill, ...]:
    """Escape and overkill of inspected images where the bundle's good photos set the threshold for each of OVERKILLS.

    Empty where the bundle knows no scores of good photos.
    """
    try:
        limits = [threshold_at(bundle, asked) for asked in OVERKILLS]
    except BundleError:
        return ()
    return tuple(at_overkill(rows, limit.overkill, limit.score, limit.supported) for limit in limits)


def good_parts(bundle: Bundle, rows: Sequence[ImageResult]) -> GoodParts | None:
    """Compare the good ones of inspected images with the bundle's good photos; None where either is not known."""
    if bundle.threshold is None:
        return None
    photos = bundle.provenance.get("held_out_scores") or []
    scores = [row.score for row in rows if not row.defective]
    return compare_good(scores, photos, bundle.threshold, Groups.of(bundle.provenance), bundle.recipe.threshold.tail)


def check_protocol(protocol: str) -> None:
    """Raises ConfigError for a protocol that there is not."""
    if protocol not in PROTOCOLS:
        raise ConfigError(f"no protocol {protocol}; there are: {', '.join(PROTOCOLS)}")


def _worth_seeing(images: list[ReportImage]) -> list[ReportImage]:
    """At most SHOWN rows: wrong verdicts first, then defective parts and good ones in turn, highest scores first."""
    ranked = sorted(images, key=lambda image: -(image.score or 0.0))
    wrong = [image for image in ranked if image.wrong]
    right = [image for image in ranked if not image.wrong]
    found, passed = ([image for image in right if bool(image.truth) is truth] for truth in (True, False))
    mixed = [image for pair in zip_longest(found, passed) for image in pair if image is not None]
    return (wrong + mixed)[:SHOWN]


def table(evaluation: Evaluation) -> list[str]:
    """The metrics as lines for a terminal: name, value, 95 % interval; at other overkills; what a user must know."""
    values = evaluation.to_json()
    lines = []
    for name, words in METRICS.items():
        value, low, high = (values[name][key] for key in ("value", "low", "high"))
        figures = "   -    not measurable here" if value is None else f"{value:.3f}"
        if value is not None and low is not None:
            figures += f"  [{low:.3f}, {high:.3f}]"
        lines.append(f"{words:<28} {figures}")
    for one in evaluation.escape_at:
        shares = ("-" if math.isnan(share) else f"{100 * share:.3g} %" for share in (one.escape, one.overkill))
        lines.append(f"{f'escape at {100 * one.asked:g} % asked':<28} {' ('.join(shares)} of good rejected)")
    unknown = evaluation.without_mask + (evaluation.empty_mask if evaluation.protocol == "full" else 0)
    if unknown:
        lines.append(
            f"localization leaves out {unknown} of {evaluation.defective} defective images: {evaluation.without_mask} "
            f"have no mask, the masks of {unknown - evaluation.without_mask} mark no pixel"
        )
    elif evaluation.empty_mask:
        lines.append(f"the masks of {evaluation.empty_mask} defective images mark nothing at the map's size")
    lines += evaluation.mask_notes
    if evaluation.good_parts is not None and evaluation.good_parts.unlike:
        lines.append(evaluation.good_parts.sentence)
    if evaluation.left_out is not None:
        lines.append(evaluation.left_out.sentence)
    return lines


def threshold_at(bundle: Bundle, overkill: float) -> Threshold:
    """The threshold for another overkill, from the scores of good images that training kept.

    Raises BundleError when the bundle does not know their scores.
    """
    scores, peaks = (bundle.provenance.get(name) for name in ("held_out_scores", "held_out_peaks"))
    if not scores or not peaks:
        raise BundleError(
            "the bundle holds no scores of good images, as it was imported; set its threshold with --from"
        )
    return choose_threshold(
        scores,
        peaks,
        overkill,
        str(bundle.provenance.get("calibration") or "held-out good"),
        int(bundle.provenance.get("held_out_folders") or 0),
        bundle.recipe.threshold.tail,
        float(bundle.provenance.get("set_aside_share") or 0),
        Groups.of(bundle.provenance),
    )


def threshold_given(bundle: Bundle, score: float) -> Threshold:
    """The threshold a user states; the pixel threshold stays, or is the same number when there was none."""
    if not 0 <= score <= 1:
        raise ConfigError(f"--value {score:g}: a score lies in [0, 1]")
    pixel = bundle.threshold.pixel if bundle.threshold is not None else score
    return Threshold(
        score, pixel, overkill=bundle.recipe.threshold.overkill, held_out=0, supported=False, method="given", note=""
    )


def threshold_from_folder(inspector: Inspector, listing: Listing, overkill: float | None = None) -> Threshold:
    """Threshold from good and defective parts: the test images where they hold both, else all labelled images.

    Raises LayoutError when either kind is missing, ImageError for a broken file.
    """
    labelled = [sample for sample in listing.test if sample.defective is not None]
    if len({sample.defective for sample in labelled}) < 2:
        labelled = [sample for sample in listing.samples if sample.defective is not None]
    labelled, _ = not_learnt_from(inspector.bundle, labelled)
    scores: dict[bool, list[float]] = {True: [], False: []}
    peaks: list[float] = []
    for kind, name in ((False, "good"), (True, "defective")):
        if not any(sample.defective is kind for sample in labelled):
            raise LayoutError(
                f"{listing.root}: no {name} images; a threshold from a folder needs good and defective ones"
            )
    for sample, found in _inspected(inspector, labelled):
        scores[bool(sample.defective)].append(found.score)
        if not sample.defective:
            peaks.append(float(found.network_map.max()))
    target = overkill if overkill is not None else inspector.bundle.recipe.threshold.overkill
    return threshold_from_labelled(scores[False], scores[True], peaks, target)


def _inspected(
    inspector: Inspector, samples: Sequence[Sample], without: Without | None = None
) -> Iterator[tuple[Sample, Inspection]]:
    if without is not None:
        yield from _inspected_without(inspector, samples, without)
        return
    found = inspector.inspect_many(sample.image for sample in samples)
    for sample, inspection in zip(samples, found, strict=True):
        if not isinstance(inspection, Inspection):
            raise inspection
        yield sample, inspection


def _inspected_without(
    inspector: Inspector, samples: Sequence[Sample], without: Without
) -> Iterator[tuple[Sample, Inspection]]:
    """One by one, as the model is another for each; in the end it is as before."""
    try:
        for sample in samples:
            without.prepare(sample.image)
            yield sample, inspector.inspect(sample.image)
    finally:
        without.prepare(None)


def _spared(row: ImageResult, spare: SpareFile) -> ImageResult:
    """The same row, its map in a file instead of in memory: 4 bytes a pixel of the network's scale."""
    try:
        mask = row.mask if row.mask is None or isinstance(row.mask, RunMask) else spare.mapped(row.mask)
        return replace(row, map=spare.mapped(row.map), mask=mask)
    except OSError as problem:
        raise DataError(
            f"no room for the maps of large images in {tempfile.gettempdir()} ({problem.strerror}); set TMPDIR to a "
            "folder with 5 bytes for each pixel of all test images"
        ) from problem


def _row(
    sample: Sample,
    found: Inspection,
    root: Path,
    protocol: str,
    pixel_threshold: float,
    masks: MaskReader,
    scope: Scope,
) -> ImageResult:
    size = found.network_map.shape
    whole_size = (found.map.shape[0], found.map.shape[1])
    inside, mask = found.inside, None
    if protocol == "full":
        size, inside = whole_size, scope.inside(*whole_size)
    if sample.masks:
        whole = masks.read(sample.masks, whole_size)
        if protocol == "authors":  # resized bilinearly and truncated to integers: only what is all defect remains
            mask = RunMask.of(resize_map(whole.astype(np.float32), *size) >= 1 - 1e-6)
        else:
            mask = RunMask.of(resize_mask(whole, *size))
    elif not sample.defective:
        mask = RunMask.none((size[0], size[1]))
    return ImageResult(
        image=str(sample.image.relative_to(root)) if sample.image.is_relative_to(root) else str(sample.image),
        kind=sample.kind,
        defective=bool(sample.defective),
        score=found.score,
        threshold=math.nan if found.threshold is None else found.threshold,
        map=found.network_map,
        mask=mask,
        inside=inside,
        pixel_threshold=pixel_threshold,
    )
