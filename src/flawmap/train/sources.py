"""Where a training's good images come from, by `image.policy`, and how those held out are scored by the same path.

Axes: B images or tiles, h, w their rows and columns.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from flawmap.config import FewSettings, ImageSettings, Recipe
from flawmap.data.dataset import GoodImages
from flawmap.data.images import Mask, read_pixels
from flawmap.data.large import GoodTiles
from flawmap.data.pictures import pictures_of
from flawmap.data.scope import Scope
from flawmap.data.tiles import at_scale
from flawmap.data.variation import vary
from flawmap.measure.found import Array, Found, look
from flawmap.measure.tiled import inspect_tiles
from flawmap.model.dsr import DSR

GB = 10**9
SHAPES_READ = 32  # photos that settle the shape of the network's input
LONGEST = 4  # times the shorter side
SMALLEST, LARGEST = 256, 512  # pixels along the shorter side of the network's input, where it follows the photos
REDUCED = 224  # pixels along the shorter side of what is left of an image that is reduced, at least
FOLDERS = 8  # from this many on, a folder of good photos is taken to be a part, a day or a batch of its own


def good_images(
    paths: Sequence[Path], recipe: Recipe, scope: Scope, folder: Path, quiet: bool = False
) -> GoodImages | GoodTiles:
    """Images to train on, whole or in tiles, whose temporary file lies in `folder`.

    Raises ImageError for a broken file, wherever it is in the list, and ConfigError when nothing of an image counts.
    """
    if recipe.image.policy == "resize":
        return GoodImages(paths, recipe.image, scope)
    tiles = GoodTiles(paths, recipe.image, scope, folder, int(recipe.run.disk_cache_gb * GB))
    if tiles.left_out and not quiet:
        Console(stderr=True).print(
            f"{tiles.left_out} of {len(tiles)} images do not fit run.disk_cache_gb or the disk, and are decoded for "
            "each tile drawn from them, which is slow",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    return tiles


def sized(recipe: Recipe, paths: Sequence[Path]) -> Recipe:
    """`recipe` with height, width and `model.reduction` settled from the photos at `paths`, by `image.size` and
    `image.aspect`.

    A stated `height` or `width` wins over `image.size`. Raises ImageError for a broken photo.
    """
    settings = recipe.image
    stated = {"height", "width"} & settings.model_fields_set
    if settings.size == "given" or stated or settings.policy == "tile" or not paths:
        return recipe.model_copy(update={"image": shaped(settings, paths)})
    own = own_side(paths)
    most = LARGEST if settings.size == "auto" else settings.size
    short = min(most, max(own, SMALLEST))
    reduction = max(short // REDUCED, 1) if "reduction" not in recipe.model.model_fields_set else recipe.model.reduction
    step = 16 * reduction
    short = max(round(short / step), 1) * step
    square = settings.model_copy(update={"height": short, "width": short})
    return recipe.model_copy(
        update={
            "image": shaped(square, paths, step),
            "model": recipe.model.model_copy(update={"reduction": reduction}),
        }
    )


def own_side(paths: Sequence[Path]) -> int:
    """Median of the shorter sides, in pixels, of up to 32 of the photos at `paths`. Raises ImageError for a broken
    one."""
    return int(statistics.median(min(read_pixels(path).shape[:2]) for path in _some(paths)))


def reduced(settings: ImageSettings, reduction: int) -> ImageSettings:
    """`settings` as the discrete model, reconstructions and detection see an image: 1/`reduction` of its sides."""
    return settings.model_copy(update={"height": settings.height // reduction, "width": settings.width // reduction})


def _some(paths: Sequence[Path]) -> Sequence[Path]:
    return paths[:: -(-len(paths) // SHAPES_READ)]


def shaped(settings: ImageSettings, paths: Sequence[Path], step: int = 16) -> ImageSettings:
    """`settings` with height and width settled: with aspect = photos, by the median shape of up to 32 of `paths`.

    The sides are multiples of `step`; every network here needs 16. Raises ImageError for a broken file.
    """
    if settings.aspect == "fixed" or not paths:
        return settings
    shapes = [read_pixels(path).shape for path in _some(paths)]
    ratio = statistics.median(shape[0] / shape[1] for shape in shapes)
    short = min(settings.height, settings.width)
    long = step * round(short * min(max(ratio, 1 / ratio), LONGEST) / step)
    height, width = (long, short) if ratio > 1 else (short, long)
    return settings.model_copy(update={"height": height, "width": width, "aspect": "fixed"})


def names_of(photos: Sequence[Path], good: Sequence[Path]) -> list[str]:
    """Photos as paths from the folder that holds all good ones."""
    root = Path(os.path.commonpath([path.parent.absolute() for path in good]))
    return [path.absolute().relative_to(root).as_posix() for path in photos]


class Varied:
    """Another source's images, a `share` of them varied as `settings` say (data/variation.py)."""

    def __init__(self, source: GoodImages | GoodTiles, settings: FewSettings, share: float = 1.0) -> None:
        self.source, self.settings, self.share = source, settings, share

    def draw(
        self, count: int, generator: torch.Generator, *, rotate: float, degrees: float, border: str, crop: int
    ) -> Tensor:
        """As `source` draws them, (count, 3, H, W), and varied then."""
        drawn = self.source.draw(count, generator, rotate=rotate, degrees=degrees, border=border, crop=crop)
        varied = vary(drawn, generator, self.settings)
        if self.share == 1:
            return varied
        chosen = torch.rand(count, generator=generator) < self.share
        return torch.where(chosen[:, None, None, None], varied, drawn)


class GoodParts:
    """Good photos as they are inspected: those held out, which set the threshold, and some of those trained on.

    All are read at the start, so that a broken one stops no finished training; `read` are the same photos where that
    is done. Raises ImageError.
    """

    def __init__(
        self, paths: Sequence[Path], recipe: Recipe, scope: Scope, read: GoodImages | GoodTiles | None = None
    ) -> None:
        self.paths, self.settings, self.scope = list(paths), recipe.image, scope
        self.whole = read if isinstance(read, GoodImages) else None
        if read is None and recipe.image.policy == "resize":
            self.whole = GoodImages(paths, recipe.image, scope)
        elif read is None:
            for path in self.paths:
                scope.check(read_pixels(path).shape, str(path))

    def __len__(self) -> int:
        return len(self.paths)

    def pictures(self, index: int, limit: int = 0) -> Iterator[tuple[Tensor, Mask | None]]:
        """Photo `index` as the network sees it: (1, 3, h, w) float32, and what of it counts, (h, w), None for all.

        Of a photo cut into tiles, each tile that holds something that counts, or about `limit` of them, evenly.
        """
        if self.whole is None:
            yield from pictures_of(self.paths[index], self.settings, self.scope, limit)
        else:
            yield self.whole.get([index]), self.scope.inside(self.settings.height, self.settings.width)

    def score(self, model: DSR, index: int, device: torch.device) -> tuple[float, float]:
        """(score, largest value of the map) of photo `index`, by the model as it will be used."""
        if self.whole is not None:
            inside = self.scope.inside(self.settings.height, self.settings.width)
            found = look(model, self.whole.get([index]), device).within(inside, model.score_rule)
            return float(found.scores[0]), float(found.maps.max())

        def network(tiles: Array) -> Found:  # (B, 3, h, w)
            return look(model, torch.from_numpy(tiles), device)

        pixels = at_scale(read_pixels(self.paths[index]), self.settings)
        blended = inspect_tiles(network, pixels, self.settings, self.scope, rule=model.score_rule, drawings=False)
        return blended.score, float(blended.map.max())

    def scores(self, model: DSR, device: torch.device) -> tuple[list[float], list[float]]:
        """(score, largest value of the map) of each photo."""
        found = [self.score(model, index, device) for index in range(len(self))]
        return [score for score, _ in found], [peak for _, peak in found]
