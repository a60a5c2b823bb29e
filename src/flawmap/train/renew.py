"""Take more good photos into a trained bundle: false alarms that someone confirmed as good, or a new batch of material.

The networks stay as they are. What is familiar of good parts, what each kind of evidence comes to on them, and the
threshold follow the old photos and the new ones together: nothing of the old is forgotten, as what it told is kept in
the bundle (measure/evidence.py). New photos are split into groups, and each is held against what all others tell.
"""

from __future__ import annotations

import copy
import datetime
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flawmap.backbones.read import check_unchanged
from flawmap.bundle import Bundle, round_weights, sha256
from flawmap.data.scope import Scope
from flawmap.devices import pick_device
from flawmap.errors import BundleError, TrainingError
from flawmap.measure.evidence import Floats, GoodEvidence
from flawmap.measure.threshold import Groups, choose_threshold
from flawmap.model.familiarity import STEEPNESS
from flawmap.train.familiar import FOLDS, Looks, add_moments, measure, partition, remember
from flawmap.train.folds import grouped
from flawmap.train.sources import GoodParts

ROUNDED = 1e-7  # from 0 and 1: nearer, a score in single precision tells no log-odds
FEWEST = 2  # photos: one of them is held against the others


@dataclass(frozen=True)
class Renewal:
    """What taking photos in has changed: scores of photos before and after, (photos,) each; a good one's after is as of
    a photo not taken in. thresholds: before and after."""

    good_before: list[float]
    good_after: list[float]
    defects_before: list[float]
    defects_after: list[float]
    thresholds: tuple[float, float]

    def lines(self) -> list[str]:
        """For a terminal."""
        before, after = self.thresholds
        found = [
            f"threshold {before:.4f} -> {after:.4f}",
            f"new good photos rejected: {_above(self.good_before, before)} -> {_above(self.good_after, after)} of "
            f"{len(self.good_before)} (after: each as if it had not been taken in)",
        ]
        if self.defects_before:
            count = len(self.defects_before)
            escaped = count - _above(self.defects_before, before), count - _above(self.defects_after, after)
            found.append(f"defects that escape: {escaped[0]} -> {escaped[1]} of {count}")
        return found


@torch.no_grad()
def renew(
    bundle: Bundle, name: str | Path, good: Sequence[Path], defects: Sequence[Path] = (), device: str = "auto"
) -> tuple[Bundle, Renewal]:
    """A bundle that knows the photos `good` too, and what that changes for them and for `defects`, which teach nothing.

    Raises BundleError for a bundle without familiarity, or one that was trained before it kept what this needs;
    TrainingError for fewer than FEWEST photos; ConfigError when its backbone's file is there and changed; ImageError
    for a broken photo.
    """
    if bundle.evidence is None or bundle.threshold is None:
        raise BundleError(
            f"{name} cannot take photos in: it has no familiarity (model.familiarity) or no threshold; train it anew"
        )
    if len(good) < FEWEST:
        raise TrainingError(f"{len(good)} good photo{'s' * (len(good) != 1)}: give {FEWEST} or more")
    known_scores = bundle.provenance.get("held_out_scores") or []
    if len(known_scores) != len(bundle.evidence.groups):
        raise BundleError(
            f"{name} cannot take photos in: it has {len(known_scores)} scores of {len(bundle.evidence.groups)} good "
            "photos; train it anew"
        )
    check_unchanged(bundle.recipe.model, name)
    place = pick_device(device)
    model = copy.deepcopy(bundle.model).to(place).eval()
    assert model.familiarity is not None, "a bundle with evidence has familiarity"
    scope = Scope(bundle.recipe.image, bundle.ignore)
    parts = GoodParts(sorted(good), bundle.recipe, scope, white=bundle.white)
    bad = GoodParts(sorted(defects), bundle.recipe, scope, white=bundle.white)
    good_before, defects_before = (photos.scores(model, place)[0] for photos in (parts, bad))

    folders = {path.parent for path in parts.paths}
    photos, looks = [(parts, index) for index in range(len(parts))], Looks(model, place)
    independent = Groups.of(bundle.provenance)
    if independent.count:
        siblings = partition(photos, len(photos), len(folders) >= FEWEST, looks, bundle.recipe.run.seed)
        known = {Path(name).name for name in bundle.provenance.get("good_photos") or []}
        new = any(path.name not in known for path in parts.paths)
        more = siblings.count if siblings.by == "folder" else 1  # what is taken in at once may be one run
        groups, independent = siblings.folds, replace(independent, count=independent.count + new * more)
    else:
        units = [str(path.parent if len(folders) >= FEWEST else path) for path in parts.paths]
        groups = grouped(units, FOLDS, bundle.recipe.run.seed)
    old = bundle.evidence
    added = GoodEvidence(
        old.kinds, {}, groups, np.full((len(parts), len(old.kinds)), -math.inf), np.zeros(len(parts)), old.usual
    )
    add_moments(added, list(zip(photos, groups.tolist(), strict=True)), looks)
    if old.patches:  # as many of each photo as there are of the old
        share = max(sum(map(len, bank.values())) for bank in old.patches.values()) / old.remembered
        grouped_photos, count = list(zip(photos, groups.tolist(), strict=True)), math.ceil(share * len(parts))
        remember(added, old, grouped_photos, count, looks, bundle.recipe.model.turned_patches == "always")
    told = old.joined(added)
    first = len(old.groups)
    measure(told, [(first + index, photo) for index, photo in enumerate(photos)], looks)
    good_after: list[float] = []
    for index, photo in enumerate(photos):
        told.wear(model.familiarity, int(told.groups[first + index]))
        round_weights(model.familiarity)
        score, told.peaks[first + index] = looks.score(photo)
        good_after.append(score)
    before = np.array(old.deviations(model.familiarity, round_weights))
    after = np.array(told.deviations(model.familiarity, round_weights)[:first])  # last: it leaves all photos told
    scores = [*moved(known_scores, STEEPNESS * (after - before)), *good_after]
    told_before = int(bundle.provenance.get("held_out_folders") or 0)
    folders_told = told_before + len(folders) if told_before else 0
    aside = _still_aside(bundle, parts.paths)
    threshold = choose_threshold(
        scores,
        told.peaks.tolist(),
        bundle.threshold.overkill,
        str(bundle.provenance.get("calibration") or "held-out good"),
        folders_told,
        bundle.recipe.threshold.tail,
        aside["set_aside_share"],
        independent,
    )
    provenance = {
        **bundle.provenance,
        "held_out_scores": scores,
        "held_out_peaks": told.peaks.tolist(),
        "held_out_folders": folders_told,
        "groups": asdict(independent) if independent.count else {},
        "good_photos": [*(bundle.provenance.get("good_photos") or []), *(path.name for path in parts.paths)],
        **aside,
        "taken_in": [
            *(bundle.provenance.get("taken_in") or []),
            {"when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "good": len(parts)},
        ],
    }
    renewed = Bundle(model.cpu(), bundle.recipe, threshold, provenance, bundle.ignore, bundle.photos, evidence=told)
    defects_after = bad.scores(model.to(place), place)[0]
    limits = bundle.threshold.score, threshold.score
    return renewed, Renewal(good_before, good_after, defects_before, defects_after, limits)


def _still_aside(bundle: Bundle, good: Sequence[Path]) -> dict[str, Any]:
    """What is known of the photos that a training set aside, but for those, by their bytes, now taken in as good."""
    kinds = ("set_aside", "set_aside_scores", "set_aside_sha256")
    lists = [bundle.provenance.get(kind) or [] for kind in kinds]
    if not all(lists) and any(lists):
        raise BundleError("the bundle does not know by their bytes which photos were set aside; train it anew")
    known = list(zip(*lists, strict=True))
    taken_in = {sha256(path) for path in good} if known else set()
    left = [photo for photo in known if photo[-1] not in taken_in]
    share = float(bundle.provenance.get("set_aside_share") or 0) * len(left) / max(len(known), 1)
    return {kind: [photo[number] for photo in left] for number, kind in enumerate(kinds)} | {"set_aside_share": share}


def moved(scores: Sequence[float], by: Floats) -> list[float]:
    """Scores of photos that are not at hand, their log-odds moved `by` (photos,) as those of their largest evidence."""
    odds = np.clip(scores, ROUNDED, 1 - ROUNDED)
    found: list[float] = (1 / (1 + (1 - odds) / odds * np.exp(-by))).tolist()
    return found


def _above(scores: Sequence[float], limit: float) -> int:
    return sum(score > limit for score in scores)
