"""Pixel normalisation of a user's own backbone: from the settings, else from its file's metadata, else none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flawmap.config import ModelSettings
from flawmap.errors import ConfigError

KEYS = {"mean": ("mean",), "deviation": ("deviation", "std"), "order": ("order",)}  # in a file's metadata
SMALLEST = 1e-6  # deviation


class Pixels(NamedTuple):
    """Mean and deviation of each of a network's channels, of pixels in [0, 1], and their order: "rgb" or "bgr"."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    order: str


def pixels_of(settings: ModelSettings, metadata: Mapping[str, str], name: str) -> Pixels:
    """Take each from the settings, else from the `metadata` of the file `name`, else 0, 1 and "rgb".

    Raises ConfigError for metadata that is not understood.
    """

    def written(kind: str) -> tuple[str, str]:
        return next(((key, metadata[key]) for key in KEYS[kind] if key in metadata), (kind, ""))

    def three(kind: str, given: Sequence[float], usual: float, least: float) -> tuple[float, ...]:
        if given:
            return tuple(given)
        key, text = written(kind)
        try:
            values = [float(word) for word in text.strip("[]() \t").replace(",", " ").split()]
        except ValueError:
            values = [math.nan]
        values = 3 * values if len(values) == 1 else values or 3 * [usual]
        if len(values) != 3 or not all(least <= value <= 1 for value in values):
            raise ConfigError(
                f"{name} has {key} = {text} in its metadata, and three numbers up to 1 are needed, one for each "
                f"channel of pixels in [0, 1]; correct it, or set model.backbone_{kind}"
            )
        return tuple(values)

    order: str = settings.backbone_order
    if order == "auto":
        order = written("order")[1].strip().lower() or "rgb"
        if order not in ("rgb", "bgr"):
            raise ConfigError(f"{name} has order = {order} in its metadata; set model.backbone_order to rgb or bgr")
    return Pixels(
        three("mean", settings.backbone_mean, 0.0, 0.0),
        three("deviation", settings.backbone_deviation, 1.0, SMALLEST),
        order,
    )
