"""After a training: what is familiar of good parts is fitted, set against good parts that were held out, and tried.

Which kinds of features serve depends on the part, and is told by defects painted onto good parts held out: a kind that
hardly finds them adds false alarms, and is left out. The same defects tell whether all evidence together outlines
better than detection alone.

Axes: B images or tiles, C channels, H, W rows and columns of the network's input, h, w of features.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flawmap.config import Recipe
from flawmap.data.images import Mask
from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.model.anomalies import rank_tables
from flawmap.model.dsr import DSR
from flawmap.model.familiarity import MAP, Familiarity, Moments, level_and_spread, within_border
from flawmap.train.detect import with_defects
from flawmap.train.loop import seeded
from flawmap.train.sources import GoodParts

Floats = np.ndarray[Any, np.dtype[np.float32]]

PHOTOS = 256  # good photos that the Gaussians are fitted to, at most
TILES = 8  # of each photo, where photos are cut into tiles
PAINTED = 128  # pictures with painted defects that evidence is tried on, about
OUTLINED = 32  # of these, whose outlines are looked at
SEEN = 100  # pixels of a painted defect that must be seen
USEFUL = 0.7  # AUROC on painted defects that a source must come to


@torch.no_grad()
def fit_densities(model: DSR, good: GoodParts, device: torch.device) -> None:
    """Fit the Gaussians of `model.familiarity` to good photos that were trained on, or PHOTOS of them. In place."""
    familiarity = _of(model)
    moments = {name: Moments(len(density.mean)) for name, density in familiarity.named_densities()}
    for index in range(0, len(good), -(-len(good) // PHOTOS)):
        for pictures, inside in good.pictures(index, TILES):
            features = model.examine(_laid_out(pictures, device)).features
            for name, sums in moments.items():
                cells = _cells(inside, features[name])
                sums.add(within_border(features[name]).float(), None if cells is None else within_border(cells))
    for name, density in familiarity.named_densities():
        density.fit(moments[name].mean(), moments[name].covariance())


class Levels(NamedTuple):
    """By kind of evidence, the map's first: the largest on each good photo held out, and its deviation from place to
    place."""

    largest: dict[str, list[float]]
    usual: dict[str, float]


@torch.no_grad()
def set_levels(model: DSR, held_out: GoodParts, device: torch.device) -> Levels:
    """Set what the evidence of `model.familiarity` comes to on good photos held out. In place.

    The map's largest evidence is that of a mean over the square that scores are taken over.
    """
    familiarity = _of(model)
    names = (MAP, *familiarity.sources)
    largest: list[list[float]] = [[] for _ in names]
    usual = [Moments(1) for _ in names]
    for index in range(len(held_out)):
        highest = [-math.inf] * len(names)
        for pictures, inside in held_out.pictures(index):
            for number, (found, cells) in enumerate(_evidence(model, pictures, inside, device)):
                usual[number].add(found, cells)
                highest[number] = max(highest[number], _largest(found, cells))
        for values, value in zip(largest, highest, strict=True):
            values.append(value)
    deviations = [math.sqrt(max(float(moments.covariance()), 0.0)) for moments in usual]
    levels = Levels(dict(zip(names, largest, strict=True)), dict(zip(names, deviations, strict=True)))
    levels_without(model, levels, ())
    return levels


def levels_without(model: DSR, levels: Levels, left_out: Collection[int]) -> None:
    """Set the levels of `model.familiarity` from all photos held out but those numbered `left_out`. In place.

    A photo's own evidence must not set the level it is held against: scores would come out too small, and a threshold
    or p-value told from them would promise too much (tests/train/test_familiar.py). Leaves all in where none would be
    left.
    """
    familiarity = _of(model)
    for number, name in enumerate((MAP, *familiarity.sources)):
        values = [value for index, value in enumerate(levels.largest[name]) if index not in left_out]
        level, spread = level_and_spread(values or levels.largest[name], levels.usual[name])
        familiarity.levels[number], familiarity.spreads[number] = level, spread


@torch.no_grad()
def keep_useful(model: DSR, held_out: GoodParts, recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Leave out the sources of `model.familiarity` whose AUROC on painted defects is not USEFUL.

    In place; the map that is shown is chosen too. Returns the AUROC of each evidence, of its largest value on good
    pictures held out against the same with painted defects; empty, and all are kept, where `recipe` paints none or none
    could be seen.
    """
    familiarity = _of(model)
    if recipe.anomalies.place != "image":
        return {}
    names = (MAP, *familiarity.sources)
    settings = recipe.anomalies.model_copy(update={"empty": 0.0})
    generator = seeded(recipe.run.seed, 40)
    tables = rank_tables(model.discrete) if settings.ranks == "table" else None
    parts = [next(held_out.pictures(index, 1)) for index in range(min(len(held_out), PAINTED))]
    good = [_all_evidence(model, picture, inside, device) for picture, inside in parts]
    painted: list[list[float]] = []
    outlined: list[tuple[Tensor, Mask, Mask | None]] = []  # some images, their defects, and what of them counts
    for _ in range(-(-PAINTED // len(parts))):
        for start in range(0, len(parts), recipe.detect.batch):
            group = parts[start : start + recipe.detect.batch]
            sample = with_defects(
                model, torch.cat([picture for picture, _ in group]), settings, generator, device, tables
            )
            for image, mask, (_, inside) in zip(sample.image, sample.mask.cpu().numpy(), group, strict=True):
                if (mask if inside is None else mask & inside).sum() >= SEEN:
                    painted.append(_all_evidence(model, image[None], inside, device))
                    outlined += [(image[None], mask, inside)] if len(outlined) < OUTLINED else []
    if not painted:
        return {}
    defective = np.repeat([False, True], [len(good), len(painted)])
    largest = np.array([*good, *painted])  # (pictures, kinds of evidence)
    found_by = {name: image_auroc(defective, values) for name, values in zip(names, largest.T, strict=True)}
    familiarity.keep({name for name in familiarity.sources if found_by[name] >= USEFUL})
    if familiarity.sources:
        familiarity.share(_together_outlines_better(model, outlined, device))
    else:
        model.familiarity = None
    return found_by


def _together_outlines_better(
    model: DSR, painted: Sequence[tuple[Tensor, Mask, Mask | None]], device: torch.device
) -> bool:
    """Whether all evidence has a larger pixel AP than detection's map alone.

    `painted`: pictures (1, 3, H, W), their defects and what of them counts, (H, W).
    """
    defective: list[Mask] = []
    values: list[tuple[Floats, Floats]] = []
    for picture, mask, inside in painted:
        examined = model.examine(_laid_out(picture, device))
        above = torch.stack(_of(model).above(examined.logits, examined.features))[:, 0, ::2, ::2].cpu().numpy()
        counts = np.ones_like(mask) if inside is None else inside
        where = counts[::2, ::2]
        defective.append(mask[::2, ::2][where])
        values.append((above.mean(axis=0)[where], above[0][where]))
    truth = np.concatenate(defective)
    together, alone = (image_ap(truth, np.concatenate(kind)) for kind in zip(*values, strict=True))
    return together > alone


def _evidence(
    model: DSR, pictures: Tensor, inside: Mask | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Each evidence (1, 1, h, w) of `model.familiarity` in pictures (1, 3, H, W), and the cells of it that count.

    The map's is a mean over the square that scores are taken over.
    """
    examined = model.examine(_laid_out(pictures, device))
    side = model.score_side
    for number, found in enumerate(_of(model).evidence(examined.logits, examined.features)):
        if number == 0:
            found = nn.functional.avg_pool2d(found, side, 1, side // 2, count_include_pad=False)
        yield found, _cells(inside, found)


def _all_evidence(model: DSR, picture: Tensor, inside: Mask | None, device: torch.device) -> list[float]:
    """Largest value of each evidence in a picture (1, 3, H, W)."""
    return [_largest(found, cells) for found, cells in _evidence(model, picture, inside, device)]


def _largest(found: Tensor, cells: Tensor | None) -> float:
    """Largest value of evidence (1, 1, h, w) in the `cells` (h, w) that count."""
    return float((found if cells is None else found[:, :, cells]).max())


def _of(model: DSR) -> Familiarity:
    assert model.familiarity is not None, "the model has something to fit"
    return model.familiarity


def _laid_out(pictures: Tensor, device: torch.device) -> Tensor:
    return pictures.to(device, memory_format=torch.channels_last)


def _cells(inside: Mask | None, features: Tensor) -> Tensor | None:
    """Cells (h, w) bool of `features` (B, C, h, w) that hold a pixel `inside` (H, W); None: all."""
    if inside is None:
        return None
    pixels = torch.from_numpy(inside)[None, None].float()
    return (nn.functional.adaptive_max_pool2d(pixels, features.shape[-2:])[0, 0] > 0).to(features.device)
