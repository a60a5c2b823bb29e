"""Scores of good photos are those of photos that set nothing: what thresholds and p-values are told from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flawmap.config import Recipe
from flawmap.measure.conformal import p_value
from flawmap.model.familiarity import Familiarity, Moments
from flawmap.train.familiar import NONE, CrossFit, in_whole_folders
from flawmap.train.folds import grouped

CPU = torch.device("cpu")


class Evidence(nn.Module):
    """Stands in for a DSR: its photos are their four largest evidences."""

    def __init__(self) -> None:
        super().__init__()
        self.familiarity = Familiarity({"encoder": 1, "local": 1, "detection": 1})
        self.seen: list[np.ndarray] = []

    def score(self, evidence: np.ndarray) -> float:
        knots, heights = self.familiarity.knots.numpy(), self.familiarity.heights.numpy()
        self.seen.append(knots.copy())
        found = []
        for value, below, above in zip(evidence, knots, heights, strict=True):
            slope = (above[-1] - above[-2]) / (below[-1] - below[-2])
            found.append(np.interp(value, below, above) + max(value - below[-1], 0) * slope)
        return float(max(found))


class Parts:
    """Stands in for good photos."""

    def __init__(self, evidence: np.ndarray, folders: list[str] | None = None) -> None:
        self.evidence, self.whole = evidence, None
        names = folders if folders is not None else ["all"] * len(evidence)
        self.paths = [Path(name) / f"{number}.png" for number, name in enumerate(names)]

    def __len__(self) -> int:
        return len(self.evidence)

    def score(self, model: Evidence, index: int, device: object) -> tuple[float, float]:
        found = model.score(self.evidence[index])
        return found, found


def fitted(model: Evidence, trained: Any, held_out: Any, calibration: str) -> CrossFit:
    """A fit whose evidence is given, of Gaussians that never change."""
    recipe = Recipe.model_validate({"threshold": {"calibration": calibration}})
    fit = CrossFit(model, trained, held_out, recipe, CPU)  # type: ignore[arg-type]
    fit.told.largest[:] = [parts.evidence[index] for parts, index in fit.places]  # type: ignore[attr-defined]
    fit.told.usual[:] = 1.0
    same = Moments.from_mean(1, torch.zeros(1).double(), torch.eye(1).double())
    fit.told.moments = {0: {name: same for name, _ in model.familiarity.named_densities()}}
    return fit


@pytest.mark.parametrize(("calibration", "count"), [("held-out", 12), ("held-out", 19), ("cross-fitted", 19)])
def test_no_more_good_parts_are_rejected_than_promised(calibration: str, count: int) -> None:
    rng = np.random.default_rng(count)
    model, trials = Evidence(), 400
    smallest = naive = 0
    for _ in range(trials):
        evidence = rng.normal(size=(count + 1, 4))
        learnt = evidence[:4] if calibration == "cross-fitted" else rng.normal(size=(1, 4))
        held_out = evidence[4:-1] if calibration == "cross-fitted" else evidence[:-1]
        fit = fitted(model, Parts(learnt), Parts(held_out), calibration)
        assert len(fit.places) == count
        fit.leave_out(NONE)
        own = [model.score(each) for each in evidence[:-1]]
        scores, _ = fit.scores()
        score = model.score(evidence[-1])
        smallest += p_value(score, scores) <= 1 / (count + 1) + 1e-9
        naive += p_value(score, own) <= 1 / (count + 1) + 1e-9
    promised = 1 / (count + 1)
    deviation = np.sqrt(promised * (1 - promised) / trials)
    assert smallest / trials <= promised + 3 * deviation
    assert smallest / trials >= 0.4 * promised  # nor far fewer
    assert naive / trials > promised + 3 * deviation  # a photo that sets its own knots scores too low


def test_what_is_in_use_is_told_by_all_photos() -> None:
    model, evidence = Evidence(), np.random.default_rng(0).normal(size=(9, 4))
    fit = fitted(model, Parts(evidence[:3]), Parts(evidence[3:]), "cross-fitted")
    fit.leave_out(NONE)
    before = model.familiarity.knots.clone()
    fit.scores()
    assert torch.equal(model.familiarity.knots, before)
    assert all(not np.array_equal(knots, before) for knots in model.seen)


def test_only_photos_held_out_tell_where_that_is_asked_for() -> None:
    evidence = np.random.default_rng(0).normal(size=(9, 4))
    fit = fitted(Evidence(), Parts(evidence[:3] + 100), Parts(evidence[3:]), "held-out")
    assert len(fit.places) == 6 and fit.told.largest.max() < 50
    assert len(set(fit.told.groups.tolist())) == 6


def test_photos_of_a_folder_are_left_out_together() -> None:
    evidence = np.random.default_rng(0).normal(size=(8, 4))
    model = Evidence()
    fit = fitted(model, Parts(evidence[:4], list("aabb")), Parts(evidence[4:], list("cccd")), "cross-fitted")
    assert fit.folders == 4
    groups = fit.told.groups.tolist()
    assert groups[0] == groups[1] and groups[2] == groups[3] and groups[4] == groups[5] == groups[6]
    assert len(set(groups)) == 4
    fit.scores()
    assert np.array_equal(model.seen[0], model.seen[1]) and not np.array_equal(model.seen[0], model.seen[2])


def test_a_further_photo_is_scored_without_the_rest_of_its_folder() -> None:
    rng = np.random.default_rng(4)
    folders = [name for name in "abcdefghij" for _ in range(2)]
    model, trained = Evidence(), Parts(rng.normal(size=(20, 4)), folders)
    fit = fitted(model, trained, Parts(rng.normal(size=(2, 4)), ["x", "y"]), "cross-fitted")
    assert fit.folders == 12
    scores = fit.scores()[0][:20]
    assert fit.scores_of(trained) == scores  # of photos that it knows: as held against the other folders
    told_by_all = [model.score(each) for each in trained.evidence]
    elsewhere = Parts(trained.evidence, ["new"] * 20)
    assert fit.scores_of(elsewhere) == told_by_all != scores


def test_of_many_photos_as_many_tell_as_there_may_be() -> None:
    many = Parts(np.zeros((30, 4)))
    recipe = Recipe.model_validate({"threshold": {"calibration": "cross-fitted"}})
    fit = CrossFit(Evidence(), many, Parts(np.zeros((4, 4))), recipe, CPU, 20)  # type: ignore[arg-type]
    assert [index for parts, index in fit.places if parts is many] == [turn * 30 // 16 for turn in range(16)]
    assert len(fit.places) == 20


def test_photos_of_a_single_folder_are_left_out_one_by_one() -> None:
    evidence = np.random.default_rng(0).normal(size=(9, 4))
    fit = fitted(Evidence(), Parts(evidence[:3], list("aab")), Parts(evidence[3:], list("cccccc")), "held-out")
    assert fit.folders == 1 and len(set(fit.told.groups.tolist())) == 6


def test_groups_are_of_about_as_many_photos_and_the_same_again() -> None:
    units = [str(number // 3) for number in range(60)]
    groups = grouped(units, 8, 5)
    assert np.array_equal(groups, grouped(units, 8, 5)) and not np.array_equal(groups, grouped(units, 8, 6))
    assert set(groups.tolist()) == set(range(8))
    assert np.bincount(groups).max() <= 9 and np.bincount(groups).min() >= 6
    assert all(len(set(groups[start : start + 3].tolist())) == 1 for start in range(0, 60, 3))


def test_whole_folders_are_told_from_single_photos() -> None:
    train = [Path("a/1.png"), Path("b/1.png")]
    assert in_whole_folders(train, [Path("c/1.png"), Path("d/1.png")])
    assert not in_whole_folders(train, [Path("a/2.png"), Path("d/1.png")])
    assert not in_whole_folders(train, [])
