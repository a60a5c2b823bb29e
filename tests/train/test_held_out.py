"""Scores of photos held out are those of photos that set nothing: what thresholds and p-values are told from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flawmap.measure.conformal import p_value
from flawmap.model.familiarity import Familiarity
from flawmap.train.familiar import Levels, levels_without
from flawmap.train.run import held_out_folders, score_held_out

NAMES = ("map", "encoder", "local", "detection")
CPU = torch.device("cpu")


class Evidence(nn.Module):
    """Stands in for a DSR: its photos are their four largest evidences."""

    def __init__(self) -> None:
        super().__init__()
        self.familiarity = Familiarity({"encoder": 1, "local": 1, "detection": 1})

    def score(self, evidence: np.ndarray) -> float:
        levels, spreads = self.familiarity.levels.numpy(), self.familiarity.spreads.numpy()
        return float(((evidence - levels) / spreads).max())


class Parts:
    """Stands in for the photos held out."""

    def __init__(self, evidence: np.ndarray) -> None:
        self.evidence = evidence
        self.levels: list[np.ndarray] = []

    def scores(
        self, model: Evidence, device: object, before: Callable[[int], None] = lambda index: None
    ) -> tuple[list[float], list[float]]:
        found = []
        for index, evidence in enumerate(self.evidence):
            before(index)
            self.levels.append(model.familiarity.levels.numpy().copy())
            found.append(model.score(evidence))
        return found, found


def levels_of(evidence: np.ndarray) -> Levels:
    return Levels({name: evidence[:, number].tolist() for number, name in enumerate(NAMES)}, dict.fromkeys(NAMES, 1.0))


@pytest.mark.parametrize("count", [12, 19])
def test_no_more_good_parts_are_rejected_than_promised(count: int) -> None:
    rng = np.random.default_rng(count)
    model, trials = Evidence(), 1500
    smallest = naive = 0
    for _ in range(trials):
        evidence = rng.normal(size=(count + 1, 4))
        held_out, new = evidence[:-1], evidence[-1]
        levels = levels_of(held_out)
        levels_without(model, levels, ())  # type: ignore[arg-type]
        own, _ = Parts(held_out).scores(model, None)
        scores, _ = score_held_out(model, Parts(held_out), levels, [], CPU)  # type: ignore[arg-type]
        score = model.score(new)
        smallest += p_value(score, scores) <= 1 / (count + 1) + 1e-9
        naive += p_value(score, own) <= 1 / (count + 1) + 1e-9
    promised = 1 / (count + 1)
    deviation = np.sqrt(promised * (1 - promised) / trials)
    assert smallest / trials <= promised + 3 * deviation
    assert smallest / trials >= 0.5 * promised  # nor far fewer
    assert naive / trials > promised + 5 * deviation  # a photo that sets its own level scores too low


def test_the_levels_in_use_are_those_of_all_photos() -> None:
    model, evidence = Evidence(), np.random.default_rng(0).normal(size=(9, 4))
    levels = levels_of(evidence)
    levels_without(model, levels, ())  # type: ignore[arg-type]
    before = model.familiarity.levels.clone()
    np.testing.assert_allclose(before, evidence.mean(0), rtol=1e-5)
    score_held_out(model, Parts(evidence), levels, [], CPU)  # type: ignore[arg-type]
    assert torch.equal(model.familiarity.levels, before)


def test_photos_of_a_folder_are_left_out_together() -> None:
    evidence = np.random.default_rng(0).normal(size=(6, 4))
    folders, parts = ["a", "a", "b", "b", "b", "c"], Parts(evidence)
    score_held_out(Evidence(), parts, levels_of(evidence), folders, CPU)  # type: ignore[arg-type]
    for index, folder in enumerate(folders):
        others = [other for other, name in enumerate(folders) if name != folder]
        np.testing.assert_allclose(parts.levels[index], evidence[others].mean(0), rtol=1e-5)


def test_whole_folders_are_told_from_single_photos() -> None:
    train = [Path("a/1.png"), Path("b/1.png")]
    assert held_out_folders(train, [Path("c/1.png"), Path("d/1.png")]) == ["c", "d"]
    assert held_out_folders(train, [Path("a/2.png"), Path("d/1.png")]) == []
