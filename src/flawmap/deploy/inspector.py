"""One call from an image to a verdict: `flawmap.load(BUNDLE).inspect(image)` (DSR §3.5; METHOD 4).

The map is brought to the image file's own size (the authors leave it at the network's), so that regions are in the
pixels an operator sees. The score is computed at the network's size, as in the paper. With `image.policy = "tile"`,
images go through the network tile by tile (`measure.tiled`).

Axes: H, W the image file's rows and columns; h, w the network's, or of the whole image at the network's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.bundle import Bundle, load_bundle
from flawmap.data.dataset import network_input
from flawmap.data.images import MAX_BYTES, Mask, Stored, decode_pixels, held_bytes, read_pixels, resize_map, to_float
from flawmap.data.scope import Scope
from flawmap.data.tiles import at_scale
from flawmap.data.white import at_white
from flawmap.deploy.runtimes import AUTO, PRECISIONS, RUNTIMES, RUNTIMES_IN, Runtime, TorchRuntime
from flawmap.errors import ConfigError, ImageError
from flawmap.measure.conformal import p_value
from flawmap.measure.scores import MIN_AREA, Region, find_regions
from flawmap.measure.tiled import inspect_tiles

Image = np.ndarray[Any, np.dtype[np.float32]]

DTYPES = ("uint8", "uint16", "float16", "float32", "float64")


@dataclass(frozen=True)
class Inspection:
    """What is known of one image.

    map: (H, W) float32 in [0, 1], the image's own size; regions are in its pixels
    score: in [0, 1]; threshold: the bundle's, None when it has none
    defective: score > threshold, None without a threshold
    regions: where the map exceeds the bundle's pixel threshold, largest peak first. Also given for a part that
        passes; a defective part whose map exceeds it nowhere has the region around its peak. Those smaller than the
        bundle's `verdict.smallest` are left out, so that a defective part may have none
    network_map: (h, w) float32, the map at the network's size or, of tiles, scale; the same array as `map` where these
        are the image's own
    input_image, object_image, general_image: (h, w, 3) float32 BGR in [0, 1]: what the network saw, and its drawings;
        of tiles, reduced to at most 1024 pixels a side
    inside: (h, w) bool, what of network_map counts; elsewhere both maps are 0. None when all does
    p_value: in (0, 1], the chance that a good part scores as high (measure/conformal.py), from the scores of good parts
        that the bundle keeps; None when it knows none
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


class Inspector:
    """A bundle and what computes it, ready to inspect.

    `runtime` computes the network; None is PyTorch on `device` (`auto`, a GPU if there is one, `cpu`, `cuda`, …) with
    `threads` CPU threads, 0 for its own choice, in `precision` (`float32`, `bfloat16`). `smallest`: the smallest area
    of a region, in pixels of the image file; None for the bundle's own (`verdict.smallest`). Raises ConfigError for a
    device that is not there or that has no bfloat16.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        threads: int = 0,
        *,
        runtime: Runtime | None = None,
        precision: str = "float32",
        smallest: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.smallest = bundle.recipe.verdict.pixels if smallest is None else smallest
        self.scope = Scope(bundle.recipe.image, bundle.ignore)
        self.white = bundle.white
        self.good_scores = [float(score) for score in bundle.provenance.get("held_out_scores") or []]
        self.runtime = TorchRuntime(bundle.model, device, threads, precision) if runtime is None else runtime

    @property
    def usual_batch(self) -> int:
        """Images, or tiles of one, at a time that suit the runtime."""
        return self.runtime.usual_batch

    def inspect(self, image: str | Path | np.ndarray[Any, Any]) -> Inspection:
        """Inspect one image: a file, or an array (H, W, 3) in BGR order, uint8, uint16 or float in [0, 1].

        16 bits are read with the bundle's full white (data/white.py), of an array as of a file. Raises ImageError for
        a file or an array that is not such an image, and for 16 bits at another level.
        """
        return self.inspect_read([self.read(image)])[0]

    def inspect_many(
        self, images: Iterable[str | Path | np.ndarray[Any, Any]], batch: int = 0
    ) -> Iterator[Inspection | ImageError]:
        """Inspect any number of images in order, `batch` at a time (0: `usual_batch`), read as they are needed.

        With `image.policy = "tile"`, one image is in memory at a time, and `batch` tiles of it in the network.
        Memory does not grow with the number of images. An image that cannot be used yields its ImageError in its place,
        and the others go on.
        """
        size = batch or self.usual_batch
        waiting = iter(images)
        while group := list(islice(waiting, 1 if self.tiled else size)):
            read = [self.read_or_error(image) for image in group]
            usable = [pixels for pixels in read if not isinstance(pixels, ImageError)]
            found = iter(self.inspect_read_or_error(usable, size))
            for pixels in read:
                yield pixels if isinstance(pixels, ImageError) else next(found)

    @property
    def tiled(self) -> bool:
        """Whether images are cut into tiles."""
        return self.bundle.recipe.image.policy == "tile"

    def read(self, image: str | Path | np.ndarray[Any, Any]) -> Stored:
        """An image as it is inspected, (H, W, 3) uint8, uint16 at full scale, or float32. Raises ImageError."""
        name = str(image) if isinstance(image, str | Path) else "image array"
        pixels = (
            read_pixels(image, self.white)
            if isinstance(image, str | Path)
            else at_white(_pixels(image), self.white, name)
        )
        return self._checked(pixels, name)

    def decode(self, data: bytes, name: str) -> Stored:
        """`read` of the bytes of a file; `name` is used in messages."""
        return self._checked(decode_pixels(data, name, self.white), name)

    def _checked(self, pixels: Stored, name: str) -> Stored:
        """An image, if the scope and the memory allow to inspect it. Raises ImageError."""
        self.scope.check(pixels.shape, name)
        if not self.tiled and pixels.size * 4 + held_bytes(pixels) > MAX_BYTES:
            raise ImageError(
                f"{name}: {pixels.shape[1]}x{pixels.shape[0]} takes over {MAX_BYTES / 1e9:.1f} GB to inspect as a "
                "whole; cut it into smaller images, or train with --set image.policy=tile"
            )
        return pixels

    def read_or_error(self, image: str | Path | np.ndarray[Any, Any]) -> Stored | ImageError:
        """`read`, but what it would raise is returned."""
        try:
            return self.read(image)
        except ImageError as problem:
            return problem

    def inspect_read_or_error(self, images: Sequence[Stored], batch: int = 0) -> Sequence[Inspection | ImageError]:
        """`inspect_read`, but one that memory does not hold is an ImageError in its place."""
        try:
            return self.inspect_read(images, batch)
        except MemoryError:
            if len(images) > 1:
                return [found for image in images for found in self.inspect_read_or_error([image], batch)]
            return [ImageError("it does not fit into this machine's memory; cut it into smaller images")]

    def inspect_read(self, images: Sequence[Stored], batch: int = 0) -> list[Inspection]:
        """Inspect what `read` gave, all at once, or each `batch` tiles at a time (0: `usual_batch`)."""
        if self.tiled:
            return [self._inspect_tiles(image, batch or self.usual_batch) for image in images]
        return self._inspect_whole(images) if images else []

    def _inspect_whole(self, images: Sequence[Stored]) -> list[Inspection]:
        settings = self.bundle.recipe.image
        inputs = np.stack([network_input(to_float(image), settings).numpy() for image in images])  # (B, 3, h, w)
        inside = self.scope.inside(settings.height, settings.width)
        found = self.runtime(inputs).within(inside, self.bundle.model.score_rule)
        seen = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
        scores = found.scores.tolist()
        pictures = list(zip(seen, found.object_images, found.general_images, strict=True))
        return [
            self._judge(image.shape[:2], found.maps[i], scores[i], pictures[i], inside)
            for i, image in enumerate(images)
        ]

    def _inspect_tiles(self, image: Stored, batch: int) -> Inspection:
        settings = self.bundle.recipe.image
        rule = self.bundle.model.score_rule
        found = inspect_tiles(self.runtime, at_scale(image, settings), settings, self.scope, rule=rule, batch=batch)
        assert found.input_image is not None and found.object_image is not None and found.general_image is not None
        pictures = (found.input_image, found.object_image, found.general_image)
        inside = self.scope.inside(*found.map.shape)
        return self._judge(image.shape[:2], found.map, found.score, pictures, inside)

    def _judge(
        self,
        shape: tuple[int, ...],
        small: Image,
        score: float,
        pictures: tuple[Image, Image, Image],
        inside: Mask | None,
    ) -> Inspection:
        full = small
        if small.shape != shape or not self.tiled:
            full = resize_map(small, shape[0], shape[1])
            np.clip(full, 0, 1, out=full)
            if (counts := self.scope.inside(shape[0], shape[1])) is not None:
                full *= counts  # interpolation carries values over the edge
        threshold = self.bundle.threshold
        regions: list[Region] = []
        defective = None
        if threshold is not None:
            defective = score > threshold.score
            regions = find_regions(full, threshold.pixel, min(self.smallest, MIN_AREA))
            if defective and not regions:
                regions = peak_region(full)
            if self.smallest > MIN_AREA:  # none takes the place of specks that were left out
                regions = [region for region in regions if region.area >= self.smallest]
        return Inspection(
            map=full,
            score=score,
            threshold=None if threshold is None else threshold.score,
            defective=defective,
            regions=regions,
            network_map=small,
            input_image=pictures[0],
            object_image=pictures[1],
            general_image=pictures[2],
            inside=inside,
            p_value=p_value(score, self.good_scores) if self.good_scores else None,
        )


def load(
    path: str | Path,
    device: str = "auto",
    threads: int = 0,
    *,
    runtime: str = "torch",
    precision: str = "float32",
    smallest: int | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Inspector:
    """Open a bundle for inspection by PyTorch (`torch`), by an export of it (`onnx`, `openvino`), or `auto`matically.

    `precision`: `float32`, or `bfloat16` by PyTorch or OpenVINO where the processor has it: faster, and scores change a
    little. An export is made on first use and kept (deploy/kept.py); it computes on the CPU. `auto` measures once which
    is the fastest here, and leaves out an export that cannot be had. `say` is told of both, a line each. `smallest`: as
    of Inspector. Raises BundleError, ConfigError.
    """
    if runtime not in (AUTO, *RUNTIMES):
        raise ConfigError(f"no runtime {runtime}; there are: {', '.join((AUTO, *RUNTIMES))}")
    if precision not in PRECISIONS:
        raise ConfigError(f"no precision {precision}; there are: {', '.join(PRECISIONS)}")
    if runtime not in (AUTO, *RUNTIMES_IN[precision]):
        known = ", ".join((AUTO, *RUNTIMES_IN[precision]))
        raise ConfigError(f"the runtime {runtime} computes no {precision}; use float32, or one of: {known}")
    bundle = load_bundle(Path(path))
    if runtime == "torch":
        return Inspector(bundle, device, threads, precision=precision, smallest=smallest)
    from flawmap.deploy.fastest import open_runtime

    opened = open_runtime(runtime, Path(path), bundle, device, threads, say, precision)
    return Inspector(bundle, runtime=opened, smallest=smallest)


def peak_region(found: Image) -> list[Region]:
    """The region around the highest value of a map (H, W): where it exceeds half of that value."""
    return find_regions(found, float(found.max()) / 2, min_area=1)[:1]


def _pixels(image: np.ndarray[Any, Any]) -> Stored:
    """(H, W, 3) uint8, uint16 or float32, checked."""
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image is a file name or an array, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype.name not in DTYPES:
        raise ImageError(
            f"an image array is (H, W, 3), BGR, uint8, uint16 or float in [0, 1]; this is {image.shape} {image.dtype}"
        )
    if image.dtype.kind == "u":
        return image
    pixels = image.astype(np.float32, copy=False)
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not (lowest >= 0 and highest <= 1):  # also catches NaN
        raise ImageError(
            f"a float image array lies in [0, 1]; this one in [{lowest:g}, {highest:g}]; divide it by its full scale"
        )
    return pixels
