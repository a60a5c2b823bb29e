"""Good photos of which some may show defects: the most suspicious are set aside (beyond DSR).

Before a training they are told by features that learnt nothing of the part: those of the discrete encoder, plain and
levelled, and of a network that learnt from ImageNet. Each photo is held against what the others tell, as familiarity
does it after a training (familiar.py). After the training, in which detection has learnt the part, all are told anew
where every photo has a say in the threshold (cross-fitted), and the largest scores decide. So many are set aside as the
user says there may be: a share of contamination, as other outlier detectors ask for it. Trimming by what is told anew,
as concentration steps do (Rousseeuw & Van Driessen 1999); that defects among photos to be remembered mislead, and can
be told by these features, Jiang et al. 2022 (SoftPatch).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flawmap.config import Recipe
from flawmap.data.scope import Scope
from flawmap.errors import CheckpointError, TrainingError, first_line
from flawmap.measure.evidence import GoodEvidence
from flawmap.model.dsr import DSR
from flawmap.model.familiarity import LOW, levelled
from flawmap.train.familiar import (
    FOLDS,
    REMEMBERED_PHOTOS,
    Look,
    Looks,
    add_moments,
    evenly,
    measure,
    remember,
)
from flawmap.train.folds import grouped
from flawmap.train.loop import write_atomically
from flawmap.train.sources import FOLDERS, GoodParts

Floats = np.ndarray[Any, np.dtype[np.float64]]

LEARNT_ELSEWHERE = ("encoder", "local", LOW)
PLACES = 2000  # that are remembered of good photos, for this
SET_ASIDE = "set_aside.json"
QUARTILES = 1.349  # deviations of a normal distribution between its quartiles


class _Features(Looks):
    """Features that learnt nothing of the part; nothing is drawn, and detection's logits are 0."""

    def look(self, pictures: Tensor) -> Look:
        early = self.model.discrete.fine_encoder.early
        pretrained = self.model.pretrained(pictures)
        pictures = self.model.reduced(pictures)
        features = {"encoder": early(pictures), "local": early(levelled(pictures)), **pretrained}
        return Look(pictures.new_zeros(len(pictures), 2, *pictures.shape[-2:]), features)


def allowed(contamination: float, count: int) -> int:
    """How many of `count` photos may be set aside, rounded up."""
    return math.ceil(contamination * count - 1e-9)


def to_look_with(recipe: Recipe) -> Recipe:
    """The recipe of a model that has the features needed here, whatever the training's own has."""
    needed = {"familiarity": LEARNT_ELSEWHERE, "memory": PLACES}
    model = recipe.model.model_copy(update={**needed, "guided": False})
    return recipe.model_copy(update={"model": model})


@torch.no_grad()
def oddness(model: DSR, paths: Sequence[Path], recipe: Recipe, scope: Scope, device: torch.device) -> Floats:
    """How unlike the others each photo is, (P,): its largest evidence in deviations of the photos', on average of the
    kinds. `model` is one of `to_look_with`. Deviations are told from quartiles, which a few odd photos do not widen.

    Raises ImageError for a broken file.
    """
    assert model.familiarity is not None, "the model has familiarity"
    parts = GoodParts(paths, recipe, scope)
    kinds = ("map", *model.familiarity.sources)
    photos = [(parts, index) for index in range(len(parts))]
    folders = len({path.parent for path in paths})  # where each is a part of its own, its photos are left out together
    units = [str(path.parent if folders >= FOLDERS else path) for path in paths]
    groups = grouped(units, FOLDS, recipe.run.seed)
    size = len(parts), len(kinds)
    told = GoodEvidence(kinds, {}, groups, np.full(size, -math.inf), np.zeros(size[0]), np.zeros(size[1]))
    looks = _Features(model, device)
    telling = evenly(list(zip(photos, groups.tolist(), strict=True)), REMEMBERED_PHOTOS)
    add_moments(told, telling, looks)
    remember(told, told, telling, PLACES, looks, recipe.model.turned_patches == "always")
    measure(told, list(enumerate(photos)), looks)
    largest = told.largest[:, 1:]  # without the map's
    low, middle, high = np.quantile(largest, [0.25, 0.5, 0.75], axis=0)
    deviations: Floats = ((largest - middle) / np.maximum((high - low) / QUARTILES, 1e-3)).mean(axis=1)
    return deviations


def most(values: Sequence[float], count: int) -> list[int]:
    """The numbers of the `count` largest, the largest first; of equal ones, the first."""
    return sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]


class Divided(NamedTuple):
    """Good photos: those set aside, the most suspicious first, and of the others those trained on and held out."""

    aside: list[Path]
    trained: list[Path]
    held_out: list[Path]


def divided(
    told: Mapping[Path, float],
    aside: Mapping[Path, float],
    contamination: float,
    trained: Sequence[Path],
    held_out: Sequence[Path],
) -> Divided:
    """Which photos to set aside by the scores of those that are told of and of those set `aside` before.

    Where not all of `trained` and `held_out` are told of, one that is stands for several. What was set aside and is not
    any more joins `held_out` where its folder is held out as a whole, else `trained`.
    """
    scores = {**told, **aside}
    paths = sorted(scores)
    stands_for = (len(trained) + len(held_out)) / len(told)
    room = float(allowed(contamination, len(trained) + len(held_out) + len(aside)))
    chosen: list[Path] = []
    for index in most([scores[path] for path in paths], len(paths)):
        room -= 1 if paths[index] in aside else stands_for
        if room < -1e-9:
            break
        chosen.append(paths[index])
    admitted = {path for path in aside if path not in chosen}
    apart = {path.parent for path in held_out} - {path.parent for path in trained}
    joining = {path for path in admitted if path.parent in apart}
    return Divided(
        chosen,
        sorted({*trained, *(admitted - joining)} - {*chosen}),
        sorted({*held_out, *joining} - {*chosen}),
    )


def kept_in(folder: Path, good: Mapping[str, Path]) -> list[Path] | None:
    """The photos that an unfinished training in `folder` had set aside, of `good` by name; None where it knows of none.

    Raises TrainingError when these are not among `good`, CheckpointError when the note cannot be read.
    """
    file = folder / SET_ASIDE
    if not file.exists():
        return None
    try:
        names = [str(name) for name in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as problem:
        raise CheckpointError(
            f"{file} is not readable ({first_line(problem)}); delete {folder} to start anew"
        ) from problem
    if not set(names) <= good.keys():
        raise TrainingError(f"{folder} was started with other good photos; resume with the same")
    return [good[name] for name in names]


def keep_in(folder: Path, names: Sequence[str]) -> None:
    """Note in the folder of an unfinished training which photos are set aside."""
    write_atomically(folder / SET_ASIDE, json.dumps(list(names)))
