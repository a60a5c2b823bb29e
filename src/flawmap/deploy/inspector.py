"""One call from an image to a verdict: `flawmap.load(BUNDLE).inspect(image)` (DSR §3.5; METHOD 4).

The map is brought to the image file's own size (the authors leave it at the network's), so that regions are in the
pixels an operator sees. The score is computed at the network's size, as in the paper.

Axes: H, W the image file's rows and columns; h, w the network's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.bundle import Bundle, load_bundle
from flawmap.data.dataset import network_input
from flawmap.data.images import read_image, resize_map
from flawmap.deploy.runtimes import RUNTIMES, Runtime, TorchRuntime
from flawmap.errors import ConfigError, ImageError
from flawmap.measure.scores import Region, find_regions

Image = np.ndarray[Any, np.dtype[np.float32]]

FULL_SCALE = {"uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}


@dataclass(frozen=True)
class Inspection:
    """What is known of one image.

    map: (H, W) float32 in [0, 1], the image's own size; regions are in its pixels
    score: in [0, 1]; threshold: the bundle's, None when it has none
    defective: score > threshold, None without a threshold
    regions: where the map exceeds the bundle's pixel threshold, largest peak first. Also given for a part that
        passes; a defective part whose map exceeds it nowhere has the region around its peak
    network_map: (h, w) float32, the map at the network's size
    input_image, object_image, general_image: (h, w, 3) float32 BGR in [0, 1]: what the network saw, and its drawings
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


class Inspector:
    """A bundle and what computes it, ready to inspect.

    `runtime` computes the network; None is PyTorch in float32 on `device` (`auto`, a GPU if there is one, `cpu`,
    `cuda`, …) with `threads` CPU threads, 0 for its own choice. Raises ConfigError for a device that is not there.
    """

    def __init__(
        self, bundle: Bundle, device: str = "auto", threads: int = 0, *, runtime: Runtime | None = None
    ) -> None:
        self.bundle = bundle
        self.runtime = TorchRuntime(bundle.model, device, threads) if runtime is None else runtime

    @property
    def usual_batch(self) -> int:
        """Images at a time that suit the runtime."""
        return self.runtime.usual_batch

    def inspect(self, image: str | Path | np.ndarray[Any, Any]) -> Inspection:
        """Inspect one image: a file, or an array (H, W, 3) in BGR order, uint8, uint16 or float in [0, 1].

        Raises ImageError for a file or an array that is not such an image.
        """
        return self._inspect([_pixels(image)])[0]

    def inspect_many(
        self, images: Iterable[str | Path | np.ndarray[Any, Any]], batch: int = 0
    ) -> Iterator[Inspection | ImageError]:
        """Inspect any number of images in order, `batch` at a time (0: `usual_batch`), read as they are needed.

        Memory does not grow with their number. An image that cannot be used yields its ImageError in its place, and
        the others go on.
        """
        size = batch or self.usual_batch
        waiting = iter(images)
        while group := list(islice(waiting, size)):
            read = [_pixels_or_error(image) for image in group]
            found = iter(self._inspect([pixels for pixels in read if not isinstance(pixels, ImageError)]))
            for pixels in read:
                yield pixels if isinstance(pixels, ImageError) else next(found)

    def _inspect(self, images: Sequence[Image]) -> list[Inspection]:
        if not images:
            return []
        inputs = np.stack([network_input(image, self.bundle.recipe.image).numpy() for image in images])  # (B, 3, h, w)
        found = self.runtime(inputs)
        seen = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
        scores = found.scores.tolist()
        return [
            self._judge(
                image.shape[:2], found.maps[i], scores[i], seen[i], found.object_images[i], found.general_images[i]
            )
            for i, image in enumerate(images)
        ]

    def _judge(
        self, shape: tuple[int, ...], small: Image, score: float, seen: Image, drawn: Image, general: Image
    ) -> Inspection:
        full = np.clip(resize_map(small, shape[0], shape[1]), 0, 1)
        threshold = self.bundle.threshold
        regions: list[Region] = []
        defective = None
        if threshold is not None:
            defective = score > threshold.score
            regions = find_regions(full, threshold.pixel)
            if defective and not regions:
                regions = peak_region(full)
        return Inspection(
            map=full,
            score=score,
            threshold=None if threshold is None else threshold.score,
            defective=defective,
            regions=regions,
            network_map=small,
            input_image=seen,
            object_image=drawn,
            general_image=general,
        )


def load(path: str | Path, device: str = "auto", threads: int = 0, *, runtime: str = "torch") -> Inspector:
    """Open a bundle for inspection; `runtime` is one of RUNTIMES. Raises BundleError, ConfigError."""
    if runtime not in RUNTIMES:
        raise ConfigError(f"no runtime {runtime}; there are: {', '.join(RUNTIMES)}")
    return Inspector(load_bundle(Path(path)), device, threads)


def peak_region(found: Image) -> list[Region]:
    """The region around the highest value of a map (H, W): where it exceeds half of that value."""
    return find_regions(found, float(found.max()) / 2, min_area=1)[:1]


def _pixels(image: str | Path | np.ndarray[Any, Any]) -> Image:
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image is a file name or an array, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype.name not in FULL_SCALE:
        raise ImageError(
            f"an image array is (H, W, 3), BGR, uint8, uint16 or float in [0, 1]; this is {image.shape} {image.dtype}"
        )
    pixels = image.astype(np.float32, copy=False)
    if image.dtype.kind == "u":
        pixels = pixels / np.float32(FULL_SCALE[image.dtype.name])
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not (lowest >= 0 and highest <= 1):  # also catches NaN
        raise ImageError(
            f"a float image array lies in [0, 1]; this one in [{lowest:g}, {highest:g}]; divide it by its full scale"
        )
    return pixels


def _pixels_or_error(image: str | Path | np.ndarray[Any, Any]) -> Image | ImageError:
    try:
        return _pixels(image)
    except ImageError as problem:
        return problem
