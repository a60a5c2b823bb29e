"""One call from an image to a verdict: `flawmap.load(BUNDLE).inspect(image)` (DSR §3.5; METHOD 4).

The map is brought to the image file's own size (the authors leave it at the network's), so that regions are in the
pixels an operator sees. The score is computed at the network's size, as in the paper. With `image.policy = "tile"`,
images go through the network tile by tile (`measure.tiled`).

Axes: H, W the image file's rows and columns; h, w the network's, or of the whole image at the network's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path

import numpy as np

from flawmap.bundle import Bundle, load_bundle
from flawmap.data.arrays import ImageLike, name_of, pixels_of, several
from flawmap.data.dataset import network_input
from flawmap.data.images import MAX_BYTES, Mask, Stored, decode_pixels, held_bytes, resize_map, to_float
from flawmap.data.remarks import collected
from flawmap.data.scope import Scope
from flawmap.data.tiles import at_scale
from flawmap.deploy.inspection import Image
from flawmap.deploy.inspection import Inspection as Inspection
from flawmap.deploy.runtimes import AUTO, PRECISIONS, RUNTIMES, RUNTIMES_IN, Runtime, TorchRuntime
from flawmap.errors import BundleError, ConfigError, ImageError
from flawmap.given import place_given, refuse_odd_number
from flawmap.measure.conformal import p_value
from flawmap.measure.scores import MIN_AREA, Region, find_regions
from flawmap.measure.tiled import inspect_tiles


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
        if smallest is not None:
            refuse_odd_number("smallest", smallest, 0)
        self.bundle = bundle
        self.source = ""  # the folder it was loaded from, where there is one
        self.smallest = bundle.smallest if smallest is None else smallest
        self.scope = Scope(bundle.recipe.image, bundle.ignore)
        self.white = bundle.white
        self.good_scores = [float(score) for score in bundle.provenance.get("held_out_scores") or []]
        self.runtime = TorchRuntime(bundle.model, device, threads, precision) if runtime is None else runtime

    @property
    def usual_batch(self) -> int:
        """Images, or tiles of one, at a time that suit the runtime."""
        return self.runtime.usual_batch

    def inspect(self, image: ImageLike, *, order: str | None = None) -> Inspection:
        """Inspect one image: a file, its bytes, a PIL image, an array or a tensor (`data.arrays.pixels_of`).

        An array is (H, W, 3), BGR, or (H, W), grey: uint8, uint16 or float in [0, 1]; a tensor may be (3, H, W).
        `order`: `rgb` for an array or tensor in that order. 16 bits are read with the bundle's full white
        (data/white.py), of an array as of a file. Raises ImageError for what is no such image, and for 16 bits at
        another level.
        """
        with collected() as remarks:
            pixels = self._kept(image, order)
        return self.inspect_read([pixels], names=[name_of(image)], remarks=[remarks])[0]

    def inspect_many(
        self, images: Iterable[ImageLike], batch: int = 0, *, order: str | None = None
    ) -> Iterator[Inspection | ImageError]:
        """Inspect any number of images in order, `batch` at a time (0: `usual_batch`), read as they are needed.

        `images` and `order` are as in `inspect`; an array (N, H, W, 3) is N images.
        With `image.policy = "tile"`, one image is in memory at a time, and `batch` tiles of it in the network.
        Memory does not grow with the number of images. An image that cannot be used yields its ImageError in its place,
        and the others go on.
        """
        refuse_odd_number("batch", batch, 0)
        return self._many(several(images), batch or self.usual_batch, order)

    def _many(self, waiting: Iterator[ImageLike], size: int, order: str | None) -> Iterator[Inspection | ImageError]:
        while group := list(islice(waiting, 1 if self.tiled else size)):
            read, usable, names, remarks = [], [], [], []
            for image in group:
                with collected() as said:
                    pixels = self.read_or_error(image, order, keep=True)
                read.append(pixels)
                if not isinstance(pixels, ImageError):
                    usable.append(pixels)
                    names.append(name_of(image))
                    remarks.append(said)
            found = iter(self.inspect_read_or_error(usable, size, names, remarks))
            for pixels in read:
                yield pixels if isinstance(pixels, ImageError) else next(found)

    @property
    def tiled(self) -> bool:
        """Whether images are cut into tiles."""
        return self.bundle.recipe.image.policy == "tile"

    def read(self, image: ImageLike, order: str | None = None) -> Stored:
        """An image as it is inspected, (H, W, 3) uint8, uint16 at full scale, or float32. Raises ImageError."""
        return self._checked(pixels_of(image, order, self.white), name_of(image))

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

    def _kept(self, image: ImageLike, order: str | None) -> Stored:
        """The image's pixels in memory of their own: a camera may write the next image over an array."""
        pixels = self.read(image, order)
        if isinstance(image, str | PathLike | bytes):
            return pixels
        if pixels.strides[2] == 0:
            return np.broadcast_to(pixels[:, :, :1].copy(), pixels.shape)
        return pixels.copy()

    def read_or_error(self, image: ImageLike, order: str | None = None, *, keep: bool = False) -> Stored | ImageError:
        """`read`, but what it would raise is returned. `keep`: in memory of its own."""
        try:
            return self._kept(image, order) if keep else self.read(image, order)
        except ImageError as problem:
            return problem

    def inspect_read_or_error(
        self,
        images: Sequence[Stored],
        batch: int = 0,
        names: Sequence[str] = (),
        remarks: Sequence[Sequence[str]] = (),
    ) -> Sequence[Inspection | ImageError]:
        """`inspect_read`, but an image that memory does not hold is an ImageError in its place."""
        try:
            return self.inspect_read(images, batch, names, remarks)
        except MemoryError:
            if len(images) > 1:
                each = zip(images, names or [""] * len(images), remarks or [()] * len(images), strict=True)
                return [
                    found
                    for image, name, said in each
                    for found in self.inspect_read_or_error([image], batch, [name], [said])
                ]
            return [ImageError("it does not fit into this machine's memory; cut it into smaller images")]

    def inspect_read(
        self,
        images: Sequence[Stored],
        batch: int = 0,
        names: Sequence[str] = (),
        remarks: Sequence[Sequence[str]] = (),
    ) -> list[Inspection]:
        """Inspect what `read` gave, all at once, or each `batch` tiles at a time (0: `usual_batch`).

        `names` of the images are kept with what is found, and what was remarked as they were read (data/remarks.py).
        """
        names = names or [name_of(image) for image in images]
        remarks = remarks or [()] * len(images)
        if self.tiled:
            found = [self._inspect_tiles(image, batch or self.usual_batch) for image in images]
        else:
            found = self._inspect_whole(images) if images else []
        return [
            replace(each, photo=photo, name=name, remarks=tuple(said))
            for each, photo, name, said in zip(found, images, names, remarks, strict=True)
        ]

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
    path: str | PathLike[str],
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
    refuse_odd_number("threads", threads, 0)
    path = place_given(path, "a bundle's folder", BundleError)
    bundle = load_bundle(path)
    if runtime == "torch":
        inspector = Inspector(bundle, device, threads, precision=precision, smallest=smallest)
    else:
        from flawmap.deploy.fastest import open_runtime

        opened = open_runtime(runtime, Path(path), bundle, device, threads, say, precision)
        inspector = Inspector(bundle, runtime=opened, smallest=smallest)
    inspector.source = str(path)
    return inspector


def inspector_of(bundle: Inspector | Bundle | str | PathLike[str], device: str = "auto") -> Inspector:
    """An inspector, or one of a bundle or of that in a folder. Raises BundleError, ConfigError."""
    if isinstance(bundle, Inspector):
        return bundle
    return Inspector(bundle, device) if isinstance(bundle, Bundle) else load(bundle, device)


def peak_region(found: Image) -> list[Region]:
    """The region around the highest value of a map (H, W): where it exceeds half of that value."""
    return find_regions(found, float(found.max()) / 2, min_area=1)[:1]
