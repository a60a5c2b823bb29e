"""Where a training's good images come from, by `image.policy`, and how those held out are scored by the same path.

Axes: B images or tiles, h, w their rows and columns.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from flawmap.config import FewSettings, ImageSettings, Recipe
from flawmap.data.dataset import GoodImages
from flawmap.data.images import Mask, read_pixels, read_shape
from flawmap.data.large import GoodTiles
from flawmap.data.pictures import pictures_of
from flawmap.data.scope import Scope, read_scope
from flawmap.data.tiles import at_scale
from flawmap.data.variation import vary
from flawmap.data.white import White
from flawmap.devices import pick_device
from flawmap.errors import ConfigError
from flawmap.measure.found import Array, Found, look
from flawmap.measure.tiled import inspect_tiles
from flawmap.model.dsr import DSR
from flawmap.train.size import choose_size, gflop

GB = 10**9
SHAPES_READ = 32  # photos that settle the shape of the network's input
LONGEST = 4  # times the shorter side
SMALLEST, LARGEST = 256, 512  # pixels along the shorter side of the network's input, where it follows the photos
TRIED = (320, 384, 512)  # between them, where a size is measured, besides the photos' own
REDUCED = 224  # pixels along the shorter side of what is left of an image that is reduced, at least
ENLARGED = 4  # of how many photos one may be enlarged: pixels that are made up serve nothing
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


def sized(recipe: Recipe, paths: Sequence[Path], say: Callable[[str], object] = lambda line: None) -> Recipe:
    """`recipe` with height, width and `model.reduction` settled from the photos at `paths`, by `image.size`,
    `image.aspect` and `image.budget_gflop`.

    `say` is told what a measurement of sizes found. A stated `height` or `width` wins over `image.size`. Raises
    ImageError for a broken photo, ConfigError where the budget is too small for any size.
    """
    settings = recipe.image
    shapes = _shapes(paths)
    if not follows_photos(settings) or not shapes:
        return recipe.model_copy(update={"image": _shaped(settings, shapes)})
    own = sorted(map(min, shapes))[(len(shapes) - 1) // ENLARGED]
    most = settings.size if isinstance(settings.size, int) else LARGEST
    largest = min(most, max(own, SMALLEST))
    if settings.size != "measured":
        return _affordable(recipe, shapes, [largest, *range((largest - 1) // 16 * 16, SMALLEST - 1, -16)])
    tried = sorted({side for side in (*TRIED, own) if SMALLEST <= side <= largest} | {SMALLEST})
    afforded = _affordable(recipe, shapes, tried[::-1])
    candidates = [each for each in (_at(recipe, shapes, side) for side in tried) if _short(each) <= _short(afforded)]
    found = choose_size(
        paths,
        [each.image for each in candidates],
        read_scope(settings),
        model=recipe.model,
        seed=recipe.run.seed,
        device=pick_device(recipe.run.device),
    )
    if found.aurocs:
        told = ", ".join(f"{auroc:.3f} at {side}" for side, auroc in found.aurocs.items())
        say(f"spots and lines drawn into photos are told with a mean AUROC of {told} pixels")
    return next(each for each in candidates if each.image == found.image)


def follows_photos(settings: ImageSettings) -> bool:
    """Whether the working size follows the photos: nothing else is stated, and they are not cut into tiles."""
    stated = {"height", "width"} & settings.model_fields_set
    return settings.size != "given" and not stated and settings.policy != "tile"


def photo_size(paths: Sequence[Path]) -> tuple[int, int]:
    """Median height and width, in pixels, of up to 32 of the photos at `paths`. Raises ImageError for a broken one."""
    heights, widths = zip(*_shapes(paths), strict=True)
    return int(statistics.median(heights)), int(statistics.median(widths))


def _at(recipe: Recipe, shapes: Sequence[tuple[int, int]], short: int) -> Recipe:
    """`recipe` with a shorter side of about `short` pixels, the other by the photos' shapes, and its reduction."""
    reduction = max(short // REDUCED, 1) if "reduction" not in recipe.model.model_fields_set else recipe.model.reduction
    step = 16 * reduction
    short = max(round(short / step), 1) * step
    square = recipe.image.model_copy(update={"height": short, "width": short})
    model = recipe.model.model_copy(update={"reduction": reduction})
    return recipe.model_copy(update={"image": _shaped(square, shapes, step), "model": model})


def _affordable(recipe: Recipe, shapes: Sequence[tuple[int, int]], sides: Iterable[int]) -> Recipe:
    """`recipe` at the first of `sides`, descending, that `image.budget_gflop` allows."""
    budget = recipe.image.budget_gflop
    known: dict[int, tuple[int, float]] = {}  # by reduction: the last side that cost too much, and its cost
    for side in sides:
        found = _at(recipe, shapes, side)
        if not budget:
            return found
        short, reduction = _short(found), found.model.reduction
        before, cost = known.get(reduction, (short, 0.0))
        if cost * (short / before) ** 2 > 1.2 * budget:  # it goes by the area, nearly
            continue
        cost = gflop(found)
        if cost <= budget:
            return found
        known[reduction] = short, cost
    raise ConfigError(
        f"image.budget_gflop = {budget:g} is too little: {found.image.width}x{found.image.height} pixels take "
        f"{gflop(found):.3g} GFLOP; give as much, or state image.height and image.width"
    )


def _short(recipe: Recipe) -> int:
    return min(recipe.image.height, recipe.image.width)


def reduced(settings: ImageSettings, reduction: int) -> ImageSettings:
    """`settings` as the discrete model, reconstructions and detection see an image: 1/`reduction` of its sides."""
    return settings.model_copy(update={"height": settings.height // reduction, "width": settings.width // reduction})


def _shapes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Height and width, in pixels, of up to 32 of the photos at `paths`."""
    return [read_shape(path) for path in paths[:: max(-(-len(paths) // SHAPES_READ), 1)]]


def shaped(settings: ImageSettings, paths: Sequence[Path]) -> ImageSettings:
    """`settings` with height and width settled: with aspect = photos, by the median shape of up to 32 of `paths`.

    The sides are multiples of 16, which every network here needs. Raises ImageError for a broken file.
    """
    return _shaped(settings, _shapes(paths) if settings.aspect == "photos" else [])


def _shaped(settings: ImageSettings, shapes: Sequence[tuple[int, int]], step: int = 16) -> ImageSettings:
    if settings.aspect == "fixed" or not shapes:
        return settings
    ratio = statistics.median(height / width for height, width in shapes)
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
    is done. `white`: how 16 bits are read; None is as the recipe says. Raises ImageError.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        recipe: Recipe,
        scope: Scope,
        read: GoodImages | GoodTiles | None = None,
        white: White | None = None,
    ) -> None:
        self.paths, self.settings, self.scope = list(paths), recipe.image, scope
        self.white = white or White.of(recipe.image)
        self.whole = read if isinstance(read, GoodImages) else None
        if read is None and recipe.image.policy == "resize":
            self.whole = GoodImages(paths, recipe.image, scope, self.white)
        elif read is None:
            for path in self.paths:
                scope.check(read_pixels(path, self.white).shape, str(path))

    def __len__(self) -> int:
        return len(self.paths)

    def pictures(self, index: int, limit: int = 0) -> Iterator[tuple[Tensor, Mask | None]]:
        """Photo `index` as the network sees it: (1, 3, h, w) float32, and what of it counts, (h, w), None for all.

        Of a photo cut into tiles, each tile that holds something that counts, or about `limit` of them, evenly.
        """
        if self.whole is None:
            yield from pictures_of(self.paths[index], self.settings, self.scope, limit, self.white)
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

        pixels = at_scale(read_pixels(self.paths[index], self.white), self.settings)
        blended = inspect_tiles(network, pixels, self.settings, self.scope, rule=model.score_rule, drawings=False)
        return blended.score, float(blended.map.max())

    def scores(self, model: DSR, device: torch.device) -> tuple[list[float], list[float]]:
        """(score, largest value of the map) of each photo."""
        found = [self.score(model, index, device) for index in range(len(self))]
        return [score for score, _ in found], [peak for _, peak in found]
