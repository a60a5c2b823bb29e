"""What the network saw in one image, step by step: as one picture, or as an evidence sheet of one page.

The photo, both drawings, which codes the subspace restriction changed on both grids, detection's map, each further kind
of evidence, the map that is shown, and the score among those of good parts. Computed by PyTorch. Of an image
that is inspected in tiles, the window of a tile's size around the highest point of its map is explained.

Axes: h, w the network's rows and columns; H, W the image file's.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as PilImage
from torch import Tensor

from flawmap.bundle import WEIGHTS, Bundle, sha256
from flawmap.data.arrays import ImageLike, name_of
from flawmap.data.images import (
    Mask,
    Pixels,
    Stored,
    colour_map,
    encode_jpeg,
    overlay,
    to_float,
    to_uint8,
    write_image,
)
from flawmap.data.pil_images import file_behind
from flawmap.data.tiles import at_scale, cut
from flawmap.deploy.inspector import Inspection, Inspector
from flawmap.deploy.runtimes import TorchRuntime
from flawmap.errors import ConfigError, DataError
from flawmap.measure.picture import Panel, compose, score_plot
from flawmap.measure.report import page_environment, short
from flawmap.measure.scores import Region
from flawmap.measure.smallest import LABEL, smallest_of
from flawmap.model.codebook import Codebook
from flawmap.model.dsr import Examined

EVIDENCE = {
    "map": "detection's map",
    "encoder": "unlike good photos: encoder",
    "local": "unlike good photos: levelled",
    "detection": "unlike good photos: detection",
    "imagenet": "unlike good photos: ImageNet",
    "imagenet_high": "the same, high resolution",
}
SUFFIXES = (".png", ".jpg", ".html")
FAR = 1.0  # mean distances between two codes at random, at which a change is shown brightest
DEVIATIONS = 4.0  # above good parts, as far as a kind counts, at which evidence is shown brightest


@dataclass(frozen=True)
class Explanation:
    """Everything a picture or a sheet is made of.

    panels: captions and pictures (h, w, 3) uint8 BGR; facts: what is said of the part, by its name
    regions: in pixels of the image file; sha256: of the image file, of an image in memory of its pixels (BGR)
    """

    image: str
    sha256: str
    verdict: str
    score: float
    threshold: float | None
    good_scores: Sequence[float]
    panels: Sequence[Panel]
    facts: dict[str, str]
    regions: Sequence[Region]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        limit = "" if self.threshold is None else f", threshold {short(self.threshold)}"
        regions = f"{len(self.regions)} region{'s' * (len(self.regions) != 1)}"
        shown = ", ".join(panel.caption for panel in self.panels)
        about = f"{self.verdict}, score {short(self.score)}{limit}, {regions}"
        return f"<Explanation of {Path(self.image).name}: {about}; panels: {shown}>"


def explain(
    inspector: Inspector, image: ImageLike, bundle: Path | None = None, order: str | None = None
) -> Explanation:
    """Explain one image, as `Inspector.inspect` takes it with `order`.

    `bundle`, the folder the inspector was loaded from, is named with it.

    Raises ImageError for a file that cannot be used, ConfigError for an exported runtime.
    """
    if not isinstance(inspector.runtime, TorchRuntime):
        raise ConfigError("only PyTorch shows its steps; leave out --runtime")
    pixels = inspector.read(image, order)
    found = inspector.inspect_read([pixels])[0]
    seen, place, inside = _window(inspector, pixels, found)
    images = torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1)))[None]
    model = inspector.runtime.model
    with torch.inference_mode():
        examined = model.examine(images.to(inspector.runtime.device, memory_format=torch.channels_last))
        panels, counts = _panels(inspector, examined, seen, inside)
    map_ = (
        found.network_map
        if place is None
        else np.ascontiguousarray(cut(found.network_map[:, :, None], *place)[:, :, 0])
    )
    across, down = map_.shape[1] / found.map.shape[1], map_.shape[0] / found.map.shape[0]
    if place is not None:
        across = down = inspector.bundle.recipe.image.scale
    lines = [
        np.rint(np.array(region.polygon) * (across, down) - ((place[1], place[0]) if place else (0, 0))).astype(
            np.int32
        )
        for region in found.regions
    ]
    panels += [Panel("map", colour_map(map_)), Panel("regions", overlay(seen, map_, lines))]
    verdict = {True: "defective", False: "good", None: "no threshold"}[found.defective]
    return Explanation(
        image=name_of(image),
        sha256=hashlib.sha256(_bytes_of(image, pixels)).hexdigest(),
        verdict=verdict,
        score=found.score,
        threshold=found.threshold,
        good_scores=inspector.good_scores,
        panels=panels,
        facts=_facts(inspector.bundle, found, counts, place),
        regions=found.regions,
        provenance=_provenance(inspector.bundle, bundle),
    )


def _bytes_of(image: ImageLike, pixels: Stored) -> bytes:
    """A file's bytes; of an image in memory those of its pixels, BGR."""
    if isinstance(image, str | PathLike):
        return Path(image).read_bytes()
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, PilImage) and (data := file_behind(image)) is not None:
        return data
    return np.ascontiguousarray(pixels).tobytes()


def write_picture(explanation: Explanation, file: Path) -> None:
    """All steps as one PNG or JPEG. Raises ImageError when it cannot be written."""
    title = f"{Path(explanation.image).name}: {explanation.verdict}"
    lines = [f"{name}: {value}" for name, value in explanation.facts.items()]
    plot = score_plot(explanation.good_scores, explanation.score, explanation.threshold)
    write_image(file, compose(title, lines, explanation.panels, plot))


def write_sheet(explanation: Explanation, file: Path) -> None:
    """The evidence sheet: one self-contained page to be printed or archived. Raises DataError."""
    plot = score_plot(explanation.good_scores, explanation.score, explanation.threshold)
    text = (
        page_environment()
        .get_template("sheet.html.j2")
        .render(
            explanation=explanation,
            name=Path(explanation.image).name,
            pictures=[(panel.caption, encode_jpeg(panel.pixels, 92)) for panel in explanation.panels],
            plot=encode_jpeg(plot, 95),
            made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
    )
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as problem:
        raise DataError(f"cannot write {file}: {problem.strerror}") from problem


def _window(
    inspector: Inspector, pixels: Stored, found: Inspection
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], tuple[int, int, int, int] | None, Mask | None]:
    """What the network sees (h, w, 3), where it lies in a large image (row, column, h, w), and what of it counts."""
    settings = inspector.bundle.recipe.image
    if not inspector.tiled:
        return found.input_image, None, found.inside
    large = at_scale(pixels, settings)
    row, column = np.unravel_index(int(found.network_map.argmax()), found.network_map.shape)
    top, left = (
        int(min(max(centre - side // 2, 0), max(length - side, 0)))
        for centre, side, length in zip((row, column), (settings.height, settings.width), large.shape, strict=False)
    )
    place = (top, left, settings.height, settings.width)
    inside = None if found.inside is None else cut(found.inside[:, :, None], *place)[:, :, 0]
    return to_float(cut(large, *place)), place, inside


def _panels(
    inspector: Inspector, examined: Examined, seen: np.ndarray[Any, np.dtype[np.float32]], inside: Mask | None
) -> tuple[list[Panel], tuple[int, int, int, int]]:
    """Panels up to the evidence, and (coarse codes changed, of how many, fine codes changed, of how many)."""
    model = inspector.bundle.model
    stride = model.reduction
    panels = [
        Panel("what the network sees", to_uint8(seen)),
        Panel("drawn as it is", _repeated(_drawing(examined.general_image), stride)),
        Panel("drawn as a good part", _repeated(_drawing(examined.object_image), stride)),
    ]
    if inside is not None:
        inside = inside[::stride, ::stride]
    counts: list[int] = []
    for grid, codebook, before, after in (
        ("coarse", model.discrete.coarse_codebook, examined.encoding.coarse_codes, examined.restricted.coarse_codes),
        ("fine", model.discrete.fine_codebook, examined.encoding.fine_codes, examined.restricted.fine_codes),
    ):
        change = code_change(codebook, before, after)
        counts += [int((change > 0).sum()), change.numel()]
        shown = (change / FAR).clamp(0, 1)[0].cpu().numpy().astype(np.float32)
        side = seen.shape[0] // shown.shape[0]
        panels.append(Panel(f"{grid} codes changed", colour_map(np.kron(shown, np.ones((side, side), np.float32)))))
    if model.familiarity is None:
        first = torch.softmax(examined.logits.float(), dim=1)[0, 1].cpu().numpy()
        panels.append(Panel("detection's map", _repeated(_heat(first, inside), stride)))
        return panels, (counts[0], counts[1], counts[2], counts[3])
    above = model.familiarity.above(examined.logits, examined.features)
    for name, evidence in zip(("map", *model.familiarity.sources), above, strict=True):
        shown = (evidence[0] / (2 * DEVIATIONS) + 0.5).clamp(0, 1).cpu().numpy()
        panels.append(Panel(EVIDENCE[name], _repeated(_heat(shown, inside), stride)))
    return panels, (counts[0], counts[1], counts[2], counts[3])


def _repeated(pixels: Pixels, times: int) -> Pixels:
    """A picture (h, w, 3) with each pixel repeated along either side: (times h, times w, 3)."""
    return np.repeat(np.repeat(pixels, times, axis=0), times, axis=1)


def code_change(codebook: Codebook, before: Tensor, after: Tensor) -> Tensor:
    """How far codes (B, D, h, w) were moved: (B, h, w), 0 where they are the same, 1 for two codes at random."""
    vectors = codebook.vectors.float()
    spread = (
        2 * vectors.var(0, unbiased=False).sum()
    ).sqrt()  # root mean square distance of two vectors drawn at random
    return (after.float() - before.float()).square().sum(1).sqrt() / spread


def _facts(
    bundle: Bundle, found: Inspection, counts: tuple[int, int, int, int], place: tuple[int, int, int, int] | None
) -> dict[str, str]:
    good = [float(score) for score in bundle.provenance.get("held_out_scores") or []]
    facts = {"score": short(found.score)}
    if found.threshold is not None:
        facts["threshold"] = short(found.threshold)
    if good:
        above = sum(score < found.score for score in good)
        facts["among good parts"] = f"higher than {above} of {len(good)}; p-value {found.p_value:.3g}"
    facts["codes changed"] = f"{counts[0]} of {counts[1]} coarse, {counts[2]} of {counts[3]} fine"
    facts["regions"] = str(len(found.regions))
    if place is not None:
        scale = bundle.recipe.image.scale
        top, left = (round(start / scale) for start in place[:2])
        facts["shown"] = f"the window from x {left}, y {top}, around the highest point of the map"
    return facts


def _provenance(bundle: Bundle, path: Path | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if path is not None:
        facts = {"bundle": str(path), "SHA-256 of its weights": sha256(path / WEIGHTS)}
    names = {
        "created": "trained",
        "flawmap": "trained by flawmap",
        "data": "data",
        "trained_on": "good parts learned from",
        "held_out": "good parts held out",
        "seed": "seed",
    }
    facts |= {words: bundle.provenance[name] for name, words in names.items() if name in bundle.provenance}
    if bundle.threshold is not None:
        limit = bundle.threshold
        facts["threshold set from"] = (
            "the user" if limit.method == "given" else f"{limit.held_out} good images ({limit.method})"
        )
        if limit.method != "given":
            facts["threshold for an overkill of"] = f"{100 * limit.overkill:.3g} %"
        if limit.note:
            facts["caveat"] = limit.note
        if smallest := smallest_of(bundle.provenance, limit.score):
            facts[LABEL] = smallest.words
    if defects := bundle.provenance.get("real_defects"):
        facts["real defects learned from"] = len(defects)
    return facts


def _drawing(batch: Tensor) -> Pixels:
    return to_uint8(batch[0].float().clamp(0, 1).permute(1, 2, 0).cpu().numpy())


def _heat(map_: np.ndarray[Any, np.dtype[np.float32]], inside: Mask | None) -> Pixels:
    return colour_map(map_ if inside is None else map_ * inside)
