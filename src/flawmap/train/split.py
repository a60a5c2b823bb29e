"""Which good photos are learnt from, and which are held out of the learning for the threshold.

Of few photos few are held out. Where scores are cross-fitted, each photo is compared with the others, and held out of
few photos are none: what is learnt from counts more then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from flawmap.config import Recipe, ThresholdSettings
from flawmap.errors import TrainingError
from flawmap.measure.threshold import UNKNOWN, Groups, promised_share
from flawmap.train.folds import capture_orders
from flawmap.train.loop import seeded
from flawmap.train.sources import FOLDERS

RUNS = 4  # stretches in the order of capture that are held out, where these are not whole folders
FEWEST = 2  # good photos: one is compared with the other
BEFORE = 1.0  # threshold.held_out_most of a flawmap that had no such setting


def cross_fitted(recipe: Recipe) -> bool:
    """Whether all good photos set the threshold, each compared with the others."""
    return recipe.threshold.calibration == "cross-fitted" and bool(recipe.model.familiarity)


def are_few(count: int, settings: ThresholdSettings) -> bool:
    """Whether `threshold.held_out_min` would be too large a share of so many photos."""
    return int(settings.held_out_most * count) < settings.held_out_min


def held_out_count(count: int, settings: ThresholdSettings, cross: bool) -> int:
    """How many of so many good photos are held out. Raises TrainingError when there are too few photos."""
    least = FEWEST
    if settings.held_out_most == BEFORE and not cross:
        least = settings.held_out_min + 1
    if count < least:
        needed = math.ceil(1 / settings.overkill - 1 - 1e-9)
        raise TrainingError(
            f"{count} good image{'s are' if count != 1 else ' is'} too few: {least} are needed at least, one of them "
            f"to set the threshold, and {needed} for an overkill of {100 * settings.overkill:.3g} %; add good images"
        )
    share = round(settings.held_out * count)
    if not are_few(count, settings):
        return min(max(settings.held_out_min, share), count - 1)
    if cross:
        return 0
    return min(max(int(settings.held_out_most * count), share, 1), count - 1)


def hold_out(
    paths: Sequence[Path], settings: ThresholdSettings, seed: int, cross: bool = False
) -> tuple[list[Path], list[Path]]:
    """(to train on, held out for the threshold), drawn by `seed`. Raises TrainingError when there are too few.

    cross: whether scores are `cross_fitted`; of few photos none is held out then. Whole folders are held out where
    there are FOLDERS or more, unless `settings.held_out_by` is "photo". Of fewer, "run" holds out RUNS stretches of the
    order of capture, so that few photos have siblings among those trained on.
    """
    ordered = sorted(paths)
    count = held_out_count(len(ordered), settings, cross)
    if count == 0:
        return ordered, []

    def shuffled(items: Sequence[Path]) -> list[Path]:
        return [items[index] for index in torch.randperm(len(items), generator=seeded(seed, 30)).tolist()]

    folders: dict[Path, list[Path]] = {}
    for path in ordered:
        folders.setdefault(path.parent, []).append(path)
    chosen: set[Path] = set()
    if settings.held_out_by != "photo" and len(folders) >= FOLDERS:
        for name in shuffled(sorted(folders)):
            folder = folders[name]
            if len(chosen) < count and len(chosen) + len(folder) <= min(2 * count, len(ordered) - 1):
                chosen.update(folder)
    if len(chosen) < count and settings.held_out_by == "run":
        order, length = capture_orders(ordered)[0].tolist(), math.ceil(count / RUNS)
        places = torch.randperm(len(order) // length, generator=seeded(seed, 30)).tolist()
        runs = [index for place in places for index in order[place * length : (place + 1) * length]]
        chosen = {ordered[index] for index in runs[:count]}
    if len(chosen) < count:  # the photos lie together, or in folders too large to do without
        chosen = set(shuffled(ordered)[:count])
    return [path for path in ordered if path not in chosen], sorted(chosen)


def few_line(count: int, held_out: int, recipe: Recipe) -> str:
    """What a threshold from so few good photos can promise, in one line; "" where they are not few."""
    settings = recipe.threshold
    if not are_few(count, settings):
        return ""
    cross = cross_fitted(recipe)
    telling = count if cross else held_out
    how = "all are learnt from, and each is compared with the others" if cross and not held_out else ""
    how = how or f"{held_out} of them {'are' if held_out > 1 else 'is'} held out to set the threshold"
    groups = Groups(telling) if cross and settings.folds == "runs" else UNKNOWN
    share = promised_share(settings.overkill, telling, groups, settings.tail)
    needed = math.ceil(1 / settings.overkill - 1 - 1e-9)
    line = f"{count} good photos are few: {how}; so the threshold can promise no less than {100 * share:.2g} % overkill"
    return line if telling >= needed else f"{line}, and {100 * settings.overkill:.3g} % takes {needed} that are told of"
