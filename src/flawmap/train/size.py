"""The working size: what an image costs at a size, at which size drawn marks are told from the surface, and its words.

Nothing is trained to choose a size. Of some good photos, pretrained features of two resolutions are taken as they are
(imagenet.py), and a Gaussian of each is fitted (Rippel et al. 2021). Spots and lines of several true sizes are drawn
into photos that were left out; how far their features lie from the Gaussians, against those of the same photos without
them, says how well a size shows defects as large.

Axes: H, W rows and columns of a photo, h, w of a grid of features, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flawmap.backbones.read import read_backbone
from flawmap.bundle import build, load_imagenet
from flawmap.config import ImageSettings, ModelSettings, Recipe
from flawmap.data.dataset import network_input
from flawmap.data.images import Image, Mask, read_image
from flawmap.data.marks import cover_in, direction, window_of
from flawmap.data.masks import at_cells
from flawmap.data.scope import Scope
from flawmap.data.white import White
from flawmap.measure.metrics import image_auroc
from flawmap.model.familiarity import HIGH, LOW, PRETRAINED, Density, Moments, surroundings
from flawmap.model.imagenet import ImageNetFeatures
from flawmap.model.onnx_backbone import BackboneFeatures

FITTED, LEFT_OUT = 40, 20  # good photos, at most
FEWEST = 6  # good photos that can tell a size
CELLS = 8000  # of features that a Gaussian is fitted to, at most about
# Marks of two drawings of a photo, one in each quarter: shape, size as a share of the photo's shorter side, contrast as
# a share of the range from black to white. Some are hard on any surface, some easy: what all sizes show, or none, tells
# nothing. The strong are not drawn beside the weak, since features see far around a place.
MARKS = (
    (("spot", 1 / 256, 0.3), ("spot", 1 / 64, 0.1), ("line", 1 / 64, 0.3), ("line", 1 / 8, 0.1)),
    (("spot", 1 / 128, 0.2), ("spot", 1 / 32, 0.2), ("line", 1 / 32, 0.2), ("line", 1 / 16, 0.2)),
)
AROUND = 16  # pixels of the network's input about a mark in which its features may be the farthest
TIE = 0.01  # of AUROC
MUCH = 2.0  # times the network's shorter side: of such photos small defects may be lost


class SizeChoice(NamedTuple):
    """The settings of the size that was chosen, and the mean AUROC of all marks at each, by its shorter side."""

    image: ImageSettings
    aurocs: dict[int, float]


def gflop(recipe: Recipe) -> float:
    """GFLOP that a DSR of this recipe takes for an image of its height and width: convolutions and matrix products.

    2 FLOP a multiplication with addition. Nothing is computed, and no weights are read, but of a backbone of the user's
    own. Raises ConfigError where that cannot be used.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    size = recipe.image.height, recipe.image.width
    backbone = read_backbone(recipe.model, size) if recipe.model.backbone else None
    # Tensors have shapes alone.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.random.fork_rng(devices=[]), torch.no_grad():
        model = build(recipe.model, with_refinement=recipe.refine.steps > 0, backbone=backbone).eval()
        for name, density in model.familiarity.named_densities() if model.familiarity is not None else ():
            if recipe.model.memory and name in PRETRAINED:
                density.remember(torch.empty(recipe.model.memory, len(density.mean)))
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, *size))
    return float(counter.get_total_flops()) / 1e9


def choose_size(
    paths: Sequence[Path],
    candidates: Sequence[ImageSettings],
    scope: Scope,
    *,
    model: ModelSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SizeChoice:
    """The smallest of `candidates`, ascending, whose mean AUROC of drawn marks is within TIE of the best.

    paths: good photos, in the order of their names; up to FITTED and LEFT_OUT of them have a say. model: whose
    backbone, neighbourhood and principal components count. With one candidate, or fewer than FEWEST photos, the last
    candidate is taken as it is, and `aurocs` is empty. The same seed draws the same marks. Raises ImageError for a
    broken photo, ConfigError for a backbone that cannot be used.
    """
    chosen = paths[:: -(-len(paths) // (FITTED + LEFT_OUT))]
    if len(candidates) == 1 or len(chosen) < FEWEST:
        return SizeChoice(candidates[-1], {})
    # By blocks in the order of names: photos of one run vouch for each other.
    apart = [number * 6 // len(chosen) % 3 == 1 for number in range(len(chosen))]
    fitted = [path for path, out in zip(chosen, apart, strict=True) if not out]
    network = _pretrained(model, candidates).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    looks = [_Look(settings, scope, model, network) for settings in candidates]

    def features(pixels: Tensor) -> dict[str, Tensor]:
        blocks = network.blocks(pixels[None].to(device, memory_format=torch.channels_last))
        return {LOW: network.low_resolution(blocks).cpu(), HIGH: network.high_resolution(blocks).cpu()}

    with torch.inference_mode():
        for path in fitted:
            image = read_image(path, White.of(candidates[0]))
            for look in looks:
                look.learn(features(network_input(image, look.settings)), CELLS // len(fitted), seed)
        for look in looks:
            look.fit()
        for number, path in enumerate(path for path, out in zip(chosen, apart, strict=True) if out):
            plain, rng = read_image(path, White.of(candidates[0])), np.random.default_rng([seed, number])
            drawings = [draw_marks(plain, marks, scope, rng) for marks in MARKS]
            for look in looks:
                without, *marked = (
                    features(network_input(image, look.settings)) for image in (plain, *(one.image for one in drawings))
                )
                look.compare(without, marked, [one.places for one in drawings])
    aurocs = [look.auroc() for look in looks]
    first = next(number for number, found in enumerate(aurocs) if found >= max(aurocs) - TIE)
    sides = [min(settings.height, settings.width) for settings in candidates]
    return SizeChoice(candidates[first], dict(zip(sides, aurocs, strict=True)))


class Place(NamedTuple):
    """Where a mark lies in a photo: its middle and its reach about it, each in shares of width and height."""

    x: float
    y: float
    reach: tuple[float, float]


class Drawing(NamedTuple):
    """A photo (H, W, 3) with marks, and where each lies; None for one that found no room in what counts."""

    image: Image
    places: list[Place | None]


def draw_marks(
    image: Image, marks: Sequence[tuple[str, float, float]], scope: Scope, rng: np.random.Generator
) -> Drawing:
    """Draw four marks into a good photo (H, W, 3), in a quarter each, so that one look tells of all."""
    height, width = image.shape[:2]
    inside = scope.inside(height, width)
    drawn = image.copy()
    quarters = rng.permutation(4)
    places: list[Place | None] = []
    for (shape, share, contrast), quarter in zip(marks, quarters.tolist(), strict=True):
        size = max(share * min(height, width), 2.0)
        draws = rng.uniform(size=4)
        x = (quarter % 2 + _within(draws[0], size, width / 2)) * width / 2
        y = (quarter // 2 + _within(draws[1], size, height / 2)) * height / 2
        window = window_of(height, width, x, y, size)
        cover = cover_in(window, x, y, size, shape, draws[2] * math.pi)
        if inside is not None and cover[inside[window]].sum() < cover.sum():
            places.append(None)
            continue
        here = drawn[window]
        change = direction(here, cover, contrast, draws[3]) * contrast * cover
        drawn[window] = np.clip(here + change[:, :, None], 0, 1)
        places.append(Place(x / width, y / height, (size / 2 / width, size / 2 / height)))
    return Drawing(drawn, places)


def _within(draw: float, size: float, side: float) -> float:
    """A place along the `side` of a quarter, as a share of it, at a distance from its ends."""
    margin = min(0.25 + size / 2 / side, 0.5)
    return margin + draw * (1 - 2 * margin)


class _Look:
    """What one size shows: the Gaussians of good photos, then the largest distances of plain photos and of marks."""

    def __init__(
        self, settings: ImageSettings, scope: Scope, model: ModelSettings, network: ImageNetFeatures | BackboneFeatures
    ) -> None:
        self.settings = settings
        self.inside = scope.inside(settings.height, settings.width)
        self.around = {LOW: model.neighbourhood, HIGH: min(model.neighbourhood, 3)}
        channels = {LOW: network.low_channels, HIGH: network.high_channels}
        self.sums = {name: Moments(count) for name, count in channels.items()}
        self.densities = {name: Density(count, model.components) for name, count in channels.items()}
        self.plain: list[list[float]] = []  # of each photo, the largest distance by source
        self.marked: list[list[list[float] | None]] = []  # the same with each mark; None where it was left out

    def learn(self, features: dict[str, Tensor], cells: int, seed: int) -> None:
        """Add about so many cells of a good photo's features, by source (1, C, h, w)."""
        for name, found in features.items():
            grid = found.shape[-2:]
            generator = torch.Generator().manual_seed(seed)
            mask = torch.rand(grid, generator=generator) < cells / (grid[0] * grid[1])
            self.sums[name].add(found, mask if self.inside is None else mask & _counting(self.inside, grid))

    def fit(self) -> None:
        """Fit the Gaussians to what was added."""
        for name, sums in self.sums.items():
            self.densities[name].fit(sums.mean(), sums.covariance())

    def compare(
        self,
        plain: dict[str, Tensor],
        drawings: Sequence[dict[str, Tensor]],
        places: Sequence[Sequence[Place | None]],
    ) -> None:
        """Note the largest distances of a photo, and of the same photo with each mark alone, by their features."""
        without = {name: self._distances(name, found) for name, found in plain.items()}
        self.plain.append([float(found.max()) for found in without.values()])
        marked: list[list[float] | None] = []
        for drawn, there in zip(drawings, places, strict=True):
            with_all = {name: self._distances(name, found) for name, found in drawn.items()}
            marked += [
                None if place is None else [self._with(without[name], with_all[name], place) for name in without]
                for place in there
            ]
        self.marked.append(marked)

    def auroc(self) -> float:
        """Mean over the marks of the AUROC of photos with one against photos without: the larger of both sources'
        distances decides, each in deviations of the plain photos'."""
        plain = np.array(self.plain)  # (photos, sources)
        middle, deviation = plain.mean(0), np.maximum(plain.std(0), 1e-6)
        good = ((plain - middle) / deviation).max(1)
        found = []
        for number in range(len(self.marked[0])):
            values = np.array([marks[number] for marks in self.marked if marks[number] is not None])
            if len(values):
                bad = ((values - middle) / deviation).max(1)
                found.append(image_auroc(np.repeat([False, True], [len(good), len(bad)]), np.concatenate([good, bad])))
        return float(np.mean(found)) if found else 0.5

    def _distances(self, name: str, features: Tensor) -> Tensor:
        """Logarithms of distances (h, w) from the Gaussian; -inf where the image does not count."""
        found = self.densities[name](surroundings(features, self.around[name]))
        cut = [(features.shape[axis] - found.shape[axis]) // 2 for axis in (-1, -2)]
        whole = nn.functional.pad(found, (cut[0], cut[0], cut[1], cut[1]), mode="replicate")[0, 0]
        if self.inside is not None:
            whole = whole.masked_fill(~_counting(self.inside, whole.shape), -math.inf)
        return whole

    def _with(self, plain: Tensor, drawn: Tensor, place: Place) -> float:
        """The largest distance of a photo that has but the mark at `place`: there as drawn, else as it is."""
        shape, settings = plain.shape, self.settings
        spans = []
        for middle, reach, side, cells in (
            (place.y, place.reach[1], settings.height, shape[0]),
            (place.x, place.reach[0], settings.width, shape[1]),
        ):
            near = reach + AROUND / side
            spans.append(slice(max(int((middle - near) * cells), 0), math.ceil((middle + near) * cells)))
        rest = plain.clone()
        rest[spans[0], spans[1]] = drawn[spans[0], spans[1]]
        return float(rest.max())


def _pretrained(model: ModelSettings, candidates: Sequence[ImageSettings]) -> ImageNetFeatures | BackboneFeatures:
    """What gives pretrained features at all of these sizes."""
    if model.backbone:
        sizes = [(settings.height, settings.width) for settings in candidates]
        return BackboneFeatures(read_backbone(model, *sizes))
    network = ImageNetFeatures()
    load_imagenet(network)
    return network


def _counting(inside: Mask, grid: Sequence[int]) -> Tensor:
    """Cells (h, w) bool of a grid that hold a pixel `inside` (H, W)."""
    height, width = grid
    return torch.from_numpy(at_cells(inside, height, width))


def size_line(asked: Recipe, settled: Recipe, photo: tuple[int, int]) -> str:
    """How large photos, (height, width), are inspected; where they are much larger than that, what to do about it.

    asked: the recipe before the size was settled, settled: after.
    """
    image = settled.image
    stated = [name for name in ("height", "width") if name in asked.image.model_fields_set]
    of = f"photos of {photo[1]}×{photo[0]} pixels are inspected"
    if image.policy == "tile":
        return f"{of} in tiles of {image.width}×{image.height} (image.policy = tile)"
    why = f"image.size = {asked.image.size}"
    if stated:
        why = ", ".join(f"image.{name} = {getattr(asked.image, name)}" for name in stated)
    elif asked.image.size != "given" and asked.image.budget_gflop:
        why += f", image.budget_gflop = {asked.image.budget_gflop:g}"
    line = f"{of} at {image.width}×{image.height} ({why})"
    short = min(image.height, image.width)
    if min(photo) <= MUCH * short:
        return line
    more = f"--set image.size={min(2 * short, *photo, 2048)}"
    if stated or not {*PRETRAINED} & {*asked.model.familiarity}:  # nothing else gains by a size (model.reduction)
        more = f"--set image.height={2 * image.height} --set image.width={2 * image.width}"
    return f"{line}; small defects may be lost: --set image.policy=tile sees every pixel, {more} more of them"
