"""What a user gets of one image: verdict, score, regions, maps, and a picture of them, in a notebook too.

Axes: H, W the image file's rows and columns; h, w the network's, or of the whole image at the network's scale.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.data.arrays import ORDERS
from flawmap.data.images import (
    Mask,
    Pixels,
    Stored,
    colour_map,
    encode_jpeg,
    overlay,
    resize_map,
    resize_pixels,
    write_image,
)
from flawmap.errors import ConfigError, ImageError
from flawmap.measure.report import short
from flawmap.measure.scores import Region

Image = np.ndarray[Any, np.dtype[np.float32]]

SHOWN_SIDE = 480  # pixels at most of a notebook's picture
SMALL_SIDE = 256  # up to which smaller ones are enlarged
SHOWN_REGIONS = 5
BLUE, ORANGE = "#2f7fc1", "#c96a10"  # told apart without red/green vision, on white and on black


@dataclass(frozen=True)
class Inspection:
    """What is known of one image. A notebook shows it as a picture.

    map: (H, W) float32 in [0, 1], the image's own size; regions are in its pixels
    score: in [0, 1]; threshold: the bundle's, None when it has none
    defective: score > threshold, None without a threshold
    regions: where the map exceeds the bundle's pixel threshold, largest peak first. Also given for a part that
        passes; a defective part whose map exceeds it nowhere has the region around its peak. Those smaller than the
        bundle's `verdict.smallest` are left out, so that a defective part may have none
    network_map: (h, w) float32, the map at the network's size or, of tiles, scale; the same array as `map` where these
        are the image's own
    input_image, object_image, general_image: (h, w, 3) float32 BGR in [0, 1]: what the network saw, its object-specific
        and its general reconstruction; of tiles, reduced to at most 1024 pixels a side
    inside: (h, w) bool, what of network_map counts (`valid_mask`); elsewhere both maps are 0. None when all does
    p_value: in (0, 1], the chance that a good part scores as high (measure/conformal.py), from the scores of good parts
        that the bundle keeps; None when it knows none
    photo: (H, W, 3) uint8, uint16 or float32 in [0, 1], BGR: the image as inspected; None where it was not kept
    name: of its file, or what it is
    remarks: what decoding remarked on its file, as what was missing of a damaged one that was read all the same
    """

    map: Image
    score: float
    threshold: float | None
    defective: bool | None
    regions: list[Region]
    network_map: Image
    input_image: Image
    object_image: Image
    general_image: Image
    inside: Mask | None = None
    p_value: float | None = None
    photo: Stored | None = None
    name: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def object_reconstruction(self) -> Image:
        """The image as a good part would look, (h, w, 3) float32 BGR in [0, 1]; `object_image` is the same."""
        return self.object_image

    @property
    def general_reconstruction(self) -> Image:
        """The image as it is, by the same codes, (h, w, 3) float32 BGR in [0, 1]; `general_image` is the same."""
        return self.general_image

    @property
    def valid_mask(self) -> Mask | None:
        """What of network_map counts, (h, w) bool, None when all does; `inside` is the same."""
        return self.inside

    @property
    def verdict(self) -> str:
        """`defective`, `good`, or `no threshold`."""
        return {True: "defective", False: "good", None: "no threshold"}[self.defective]

    def __repr__(self) -> str:
        height, width = self.map.shape
        limit = "" if self.threshold is None else f", threshold {short(self.threshold)}"
        regions = f"{len(self.regions)} region{'s' * (len(self.regions) != 1)}"
        size = f"{width}x{height} pixels" + "".join(f", {remark}" for remark in self.remarks)
        return f"<Inspection {self.verdict}: score {short(self.score)}{limit}, {regions}, {size}>"

    def overlay(self, *, heat: bool = True, order: str = "bgr") -> Pixels:
        """Draw the regions' outlines on the image, with the map laid over as heat: (H, W, 3) uint8.

        `heat=False` leaves the image clear under the outlines. `order` of the channels: `bgr`, or `rgb` as
        matplotlib and PIL take it. Raises ConfigError for another.
        """
        if order not in ORDERS:
            raise ConfigError(f"no order of channels {order!r}; there are: {', '.join(ORDERS)}")
        drawn = _drawn(self._shown(), self.map, self.regions, heat)
        return np.ascontiguousarray(drawn[:, :, ::-1]) if order == "rgb" else drawn

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON takes it; keys as in results.jsonl of `flawmap inspect`."""
        height, width = self.map.shape
        return {
            "image": self.name,
            "width": width,
            "height": height,
            "score": float(self.score),
            "threshold": None if self.threshold is None else float(self.threshold),
            "defective": None if self.defective is None else bool(self.defective),
            "p_value": None if self.p_value is None else float(self.p_value),
            "regions": [asdict(region) | {"box": list(region.box)} for region in self.regions],
            "remarks": list(self.remarks),
        }

    def save(self, path: str | os.PathLike[str], *, heat: bool = True) -> Path:
        """Write the overlay as .png or .jpg, the figures as .json, or both as a page .html; the file's path.

        A file of that name is replaced, never half-written. Raises ImageError for another suffix, and when it cannot
        be written.
        """
        file = Path(path)
        suffix = file.suffix.lower()
        if suffix == ".json":
            _write_text(file, json.dumps(self.to_dict(), indent=2) + "\n")
        elif suffix in (".html", ".htm"):
            title = f"<title>{html.escape(self.name)}: {self.verdict}</title>"
            _write_text(
                file, f'<!doctype html>\n<html lang="en"><meta charset="utf-8">{title}{self._repr_html_()}</html>\n'
            )
        elif suffix in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"):
            write_image(file, self.overlay(heat=heat))
        else:
            raise ImageError(f"{file}: no picture ends like that; save it as .png, .jpg, .html or .json")
        return file

    def _repr_html_(self) -> str:
        """The picture that a notebook shows: outlines on the clear photo, the map beside it, and the figures."""
        height, width = self.map.shape
        ratio = min(1.0, SHOWN_SIDE / max(height, width))
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        photo = resize_pixels(self._shown(), *size, "area")
        map_ = np.clip(_shrunk(self.map, *size), 0, 1)
        outlined = _drawn(photo, map_, self.regions, heat=False, scale=(size[1] / width, size[0] / height))
        colour = ORANGE if self.defective else BLUE
        facts = [f"score {short(self.score)}"]
        if self.threshold is not None:
            facts.append(f"threshold {short(self.threshold)}")
        if self.p_value is not None:
            facts.append(f"p-value {self.p_value:.3g}")
        facts.append(f"{width}×{height} pixels")
        times = max(1, SMALL_SIDE // max(size))
        figures = [
            f'<figure style="margin:0"><img src="{_data_uri(pixels)}" alt="{caption}" width="{size[1] * times}" '
            f'height="{size[0] * times}" style="max-width:100%;height:auto;image-rendering:pixelated">'
            f'<figcaption style="font-size:85%">{caption}'
            "</figcaption></figure>"
            for pixels, caption in ((outlined, "regions on the photo"), (colour_map(map_), "map: dark 0, bright 1"))
        ]
        said = f"<div>remarks: {html.escape('; '.join(self.remarks))}</div>" if self.remarks else ""
        named = f"{html.escape(Path(self.name).name)}: " if self.name else ""
        return (
            '<div style="font-family:sans-serif;line-height:1.4">'
            f'<div>{named}<b style="color:{colour}">{self.verdict}</b>, {", ".join(facts)}</div>'
            f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin:6px 0">{"".join(figures)}</div>'
            f"{_table(self.regions)}{said}</div>"
        )

    def _shown(self) -> Stored:
        """The image at its own size; where it was not kept, what the network saw of it, enlarged."""
        return self.photo if self.photo is not None else resize_pixels(self.input_image, *self.map.shape)


def _drawn(
    photo: Stored, map_: Image, regions: Sequence[Region], heat: bool, scale: tuple[float, float] = (1.0, 1.0)
) -> Pixels:
    """`overlay` of regions whose corners are brought to the picture's scale (x, y)."""
    lines = [np.rint(np.array(region.polygon) * scale).astype(np.int32) for region in regions]
    return overlay(photo, map_ if heat else np.zeros_like(map_), lines)


def _shrunk(map_: Image, height: int, width: int) -> Image:
    """A map at a smaller size that keeps its peaks: of each cell the largest value."""
    if map_.shape == (height, width):
        return map_
    down, across = map_.shape[0] // height, map_.shape[1] // width
    if down > 1 or across > 1:
        rows, columns = (np.arange(0, side, step) for side, step in zip(map_.shape, (down, across), strict=True))
        map_ = np.maximum.reduceat(np.maximum.reduceat(map_, rows, axis=0), columns, axis=1)
    return resize_map(np.ascontiguousarray(map_), height, width)


def _data_uri(pixels: Pixels) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(pixels, 92)).decode()}"


def _table(regions: Sequence[Region]) -> str:
    """The strongest regions as a table, and how many more there are."""
    if not regions:
        return "<div>no region above the pixel threshold</div>"
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:right;padding:0 8px">{cell}</td>'
            for cell in (*region.box, region.area, f"{region.peak:.3f}")
        )
        + "</tr>"
        for region in regions[:SHOWN_REGIONS]
    )
    more = len(regions) - SHOWN_REGIONS
    head = "".join(
        f'<th style="text-align:right;padding:0 8px">{word}</th>'
        for word in ("x", "y", "width", "height", "area in pixels", "peak")
    )
    rest = f"<div>and {more} more</div>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}"


def _write_text(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(file)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise ImageError(f"{file}: cannot be written ({problem.strerror})") from problem
