from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from flawmap.bundle import load_prior
from flawmap.data.surfaces import SURFACES, draw_good
from flawmap.measure.photos import KINDS, MANY, PLACES, GoodPhotos, Raw, drift, learn, oddities, take
from flawmap.model.discrete import DiscreteModel

NAMES = list(KINDS)
Photo = np.ndarray


@pytest.fixture(scope="module")
def discrete() -> DiscreteModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DiscreteModel(64, 8, 16, 8).eval()


def seen(discrete: DiscreteModel, photo: Photo) -> Raw:
    picture = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1), np.float32))[None]
    return take([(picture, None)], discrete, torch.device("cpu"))


def part(seed: int) -> Photo:
    """A grey part with a rim, placed and lit with little variation."""
    rng = np.random.default_rng(seed)
    photo = 0.6 + 0.02 * rng.normal() + 0.03 * rng.normal(size=(96, 128, 1)) * np.ones(3)
    top, left = rng.integers(19, 22), rng.integers(29, 32)
    photo[:top] = photo[:, :left] = 0.2
    photo[top + 50 :] = photo[:, left + 70 :] = 0.2
    return np.clip(photo, 0, 1)


@pytest.fixture(scope="module")
def good(discrete: DiscreteModel) -> GoodPhotos:
    return learn([seen(discrete, part(seed)) for seed in range(60)])


def blurred(photo: Photo) -> Photo:
    padded = np.pad(photo, ((2, 2), (2, 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(0, 1))
    return windows.mean(axis=(-1, -2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda photo: 0.6 * photo, "darker"),
        (lambda photo: np.minimum(photo + 0.25, 1), "brighter"),
        (lambda photo: np.clip(2.2 * photo, 0, 1), "overexposed"),
        (lambda photo: np.clip(photo - 0.2, 0, 1), "underexposed"),
        (blurred, "less sharp"),
        (lambda photo: np.roll(photo, 16, 1), "moved to the right"),
        (lambda photo: np.roll(photo, -14, 0), "moved up"),
        (lambda photo: photo * (1, 1, 0.8), "less red"),
        (lambda photo: photo[::-1, ::-1].copy() * 0 + np.random.default_rng(0).random(photo.shape), "unlike the mean"),
    ],
)
def test_what_the_camera_did_is_said(
    discrete: DiscreteModel, good: GoodPhotos, change: Callable[[Photo], Photo], words: str
) -> None:
    figures = np.array([good.measure(seen(discrete, change(part(1000 + seed)))) for seed in range(12)])
    found = [oddities(good, row) for row in figures]
    assert all(any(words in str(oddity) for oddity in odd) for odd in found), [str(odd[0]) for odd in found if odd]
    drifted = drift(good, figures)
    assert drifted.verdict == "drifted"
    assert any(words in str(oddity) for oddity in drifted.oddities)
    assert "Do not trust" in drifted.sentence(12)


def test_new_good_photos_are_neither_odd_nor_drifted(discrete: DiscreteModel, good: GoodPhotos) -> None:
    figures = np.array([good.measure(seen(discrete, part(2000 + seed))) for seed in range(60)])
    assert sum(bool(oddities(good, row)) for row in figures) <= 2
    for start in range(0, 60, 10):
        found = drift(good, figures[start : start + 10])
        assert found.verdict == "alike", found.sentence(10)
    assert drift(good, figures).figure == 0


def test_a_small_drift_is_on_its_way(discrete: DiscreteModel, good: GoodPhotos) -> None:
    photos = [np.clip(part(3000 + seed) + 0.015, 0, 1) for seed in range(40)]
    found = drift(good, np.array([good.measure(seen(discrete, photo)) for photo in photos]))
    assert found.verdict == "on the way"
    assert found.oddities[0].name == "brightness"
    assert "begin to differ" in found.sentence(40)


def test_another_texture_of_the_same_light_is_seen_in_the_codes() -> None:
    discrete = load_prior("lean").model.discrete.eval()

    def surface(kind: str, seed: int) -> Photo:
        photo = draw_good(kind, 96, np.random.default_rng(seed))
        grey = photo.mean(2, keepdims=True) * np.ones(3)
        return np.clip((grey - grey.mean()) / grey.std() * 0.1 + 0.5, 0, 1)

    fabric = learn([seen(discrete, surface("fabric", seed)) for seed in range(30)])
    figures = np.array([fabric.measure(seen(discrete, surface("brushed-metal", seed))) for seed in range(8)])
    names = [oddity.name for oddity in drift(fabric, figures).oddities]
    assert "fine codes" in names


@pytest.mark.parametrize("surface", SURFACES)
def test_a_texture_without_a_layout_is_never_moved(discrete: DiscreteModel, surface: str) -> None:
    raws = [seen(discrete, draw_good(surface, 96, np.random.default_rng(seed))) for seed in range(40)]
    known = learn(raws[:20])
    figures = np.array([known.measure(raw) for raw in raws[20:]])
    moved = [oddity for row in figures for oddity in oddities(known, row) if oddity.name in PLACES]
    assert moved == [], list(map(str, moved))
    assert [oddity for oddity in drift(known, figures).oddities if oddity.name in PLACES] == []


def test_a_part_in_a_fixed_place_is_told_to_have_moved_by_few_photos(discrete: DiscreteModel) -> None:
    known = learn([seen(discrete, part(seed)) for seed in range(10)])
    for seed in range(100, 110):
        for shift, side, words in ((16, 1, "moved to the right"), (-14, 0, "moved up")):
            odd = oddities(known, known.measure(seen(discrete, np.roll(part(seed), shift, side))))
            assert any(words in str(oddity) for oddity in odd)
        assert not any(oddity.name in PLACES for oddity in oddities(known, known.measure(seen(discrete, part(seed)))))


def test_a_shift_is_measured_in_shares_of_the_sides(discrete: DiscreteModel, good: GoodPhotos) -> None:
    base = good.measure(seen(discrete, part(5)))
    moved = good.measure(seen(discrete, np.roll(part(5), (6, -10), (0, 1))))
    down, across = NAMES.index("down"), NAMES.index("across")
    assert moved[down] - base[down] == pytest.approx(6 / 96, abs=0.008)
    assert moved[across] - base[across] == pytest.approx(-10 / 128, abs=0.008)


def test_only_what_counts_is_measured(discrete: DiscreteModel) -> None:
    photo = part(7).astype(np.float32)
    inside = np.zeros((96, 128), bool)
    inside[30:60, 40:90] = True
    other = photo.copy()
    other[~inside] = 0.9
    one, two = (
        take([(torch.from_numpy(each.transpose(2, 0, 1).copy())[None], inside)], discrete, torch.device("cpu"))
        for each in (photo, other)
    )
    assert one.plain == pytest.approx(two.plain, abs=0.05)
    assert one.plain[0] == pytest.approx(photo[inside].mean(), abs=1e-6)
    assert one.coarse.sum() < (96 // 8) * (128 // 8)
    assert np.abs(one.small - two.small).max() < 0.02  # what position and likeness are told by


def test_too_few_photos_tell_nothing_and_say_so(discrete: DiscreteModel) -> None:
    few = learn([seen(discrete, part(seed)) for seed in range(12)])
    figures = np.array([few.measure(seen(discrete, 0.3 * part(100 + seed))) for seed in range(MANY)])
    found = drift(few, figures)
    assert found.verdict == "too few"
    assert "too few" in found.sentence(MANY)
    assert oddities(few, figures[0])  # each alone is odd all the same


def test_what_is_kept_is_read_back(good: GoodPhotos) -> None:
    again = GoodPhotos.from_tensors(good.tensors())
    assert np.allclose(again.figures, good.figures, atol=1e-6)
    assert np.array_equal(again.coarse, good.coarse)
    with pytest.raises(ValueError, match="another kind"):
        GoodPhotos.from_tensors(good.tensors() | {"figures": torch.zeros(3, 2)})
    assert MANY > 1


def test_photos_of_other_shapes_and_blank_ones_can_be_measured(discrete: DiscreteModel, good: GoodPhotos) -> None:
    for photo in (np.full((64, 64, 3), 0.5), part(1)[:64, :96]):
        assert np.isfinite(good.measure(seen(discrete, photo))).all()
    assert np.isfinite(learn([seen(discrete, np.zeros((64, 64, 3)))]).figures).all()
