from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flawmap.data.images import read_pixels, write_image
from flawmap.deploy.repeat import (
    Jitter,
    Part,
    lines,
    repeat_folders,
    repeat_photos,
    shots_of_folders,
    summarise,
    write_repeat,
)
from flawmap.errors import BundleError, LayoutError


class Bright:
    """Scores a photo by its brightness."""

    bundle = SimpleNamespace(threshold=SimpleNamespace(score=0.5))

    def read(self, path: Path) -> Any:
        return read_pixels(path)

    def inspect_read(self, images: list[np.ndarray]) -> list[Any]:
        return [self.inspect(image) for image in images]

    def inspect(self, image: np.ndarray) -> Any:
        score = float(image.mean()) / (255 if image.dtype == np.uint8 else 1)
        return SimpleNamespace(score=score, defective=score > 0.5)


def test_deviations_within_and_between_parts_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    parts = [
        Part(str(number), tuple((centre + 0.02 * rng.normal(size=6)).tolist()), 0)
        for number, centre in enumerate(0.4 + 0.1 * rng.normal(size=400))
    ]
    found = summarise(parts, 0.9)
    assert found.repeatability == pytest.approx(0.02, rel=0.05)
    assert found.part_to_part == pytest.approx(0.1, rel=0.1)
    assert found.shots == 2400


def test_unequal_shots_do_not_make_parts_differ() -> None:
    rng = np.random.default_rng(1)
    parts = [Part(str(n), tuple(rng.normal(0.5, 0.02, size=2 if n % 2 else 40).tolist()), 0) for n in range(600)]
    found = summarise(parts, 0.9)
    assert found.part_to_part is not None
    assert found.part_to_part < 0.004
    one = summarise(parts[:1], 0.9)
    assert one.part_to_part is None
    assert "part to part unknown" in lines(one)[2]


def test_flips_and_disagreements_are_counted() -> None:
    parts = [
        Part("steady", (0.1, 0.1, 0.1, 0.1), 0),
        Part("bad", (0.9, 0.9, 0.9, 0.9), 4),
        Part("between", (0.45, 0.55, 0.45, 0.55), 2),
    ]
    found = summarise(parts, 0.5)
    assert found.flipped == 1
    assert found.disagreeing == pytest.approx((2 * 2 * 2 / 12) / 3)
    assert (found.near, found.near_flipped) == (1, 1)
    assert lines(found)[0].startswith("1 of 3 parts (33.3%) get both verdicts over 12 shots")


def test_shots_of_a_folder_a_part_are_inspected(tmp_path: Path) -> None:
    levels = {"a": (100, 104), "b": (126, 130, 126), "c": (200, 200)}
    for name, values in levels.items():
        (tmp_path / name).mkdir()
        for number, value in enumerate(values):
            write_image(tmp_path / name / f"{number}.png", np.full((20, 20, 3), value, np.uint8))
    parts = list(repeat_folders(Bright(), shots_of_folders(tmp_path)))  # type: ignore[arg-type]
    assert [(part.name, part.rejected, part.flipped) for part in parts] == [
        ("a", 0, False),
        ("b", 1, True),
        ("c", 2, False),
    ]
    assert parts[0].scores == pytest.approx((100 / 255, 104 / 255), abs=1e-6)


def test_a_folder_without_several_shots_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(LayoutError, match=r"no folders; .*--shots 5"):
        shots_of_folders(tmp_path)
    (tmp_path / "a").mkdir()
    write_image(tmp_path / "a" / "0.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(LayoutError, match="a has one photo"):
        shots_of_folders(tmp_path)
    with pytest.raises(LayoutError, match="no such folder"):
        shots_of_folders(tmp_path / "nowhere")


def test_made_up_shots_differ_as_the_jitter_says() -> None:
    rng = np.random.default_rng(0)
    image = np.clip(0.5 + 0.1 * rng.normal(size=(60, 60, 1)), 0, 1).repeat(3, 2).astype(np.float32)
    shot = Jitter().shoot(np.full((20, 20, 3), 1000, np.uint16), rng)
    assert shot.dtype == np.uint16
    assert len(np.unique(shot)) > 50  # nothing is lost to a smaller depth
    lit = [Jitter(0, 0.1, 0).shoot(image, rng).mean() / image.mean() - 1 for _ in range(60)]
    assert max(lit) < 0.102
    assert min(lit) > -0.102
    assert np.std(lit) == pytest.approx(0.1 / 3**0.5, rel=0.25)
    noisy = Jitter(0, 0, 0.02).shoot(image, rng) - image
    assert noisy.std() == pytest.approx(0.02, rel=0.05)
    smooth = np.linspace(0.2, 0.8, 60, dtype=np.float32)[None, :, None] * np.ones((60, 1, 3), np.float32)
    moved = [float((Jitter(2, 0, 0).shoot(smooth, rng) - smooth)[20:40, 20:40].mean() / (0.6 / 59)) for _ in range(60)]
    assert max(map(abs, moved)) <= 2.3
    assert np.std(moved) > 0.7


def test_the_first_made_up_shot_is_the_photo_and_the_seed_repeats_the_rest(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", np.full((20, 20, 3), 127, np.uint8))
    first, again, other = (
        next(repeat_photos(Bright(), [tmp_path / "0.png"], 4, Jitter(), seed))  # type: ignore[arg-type]
        for seed in (1, 1, 2)
    )
    assert first.scores[0] == pytest.approx(127 / 255, abs=1e-6)
    assert first == again
    assert first != other


def test_without_a_threshold_there_is_nothing_to_repeat(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", np.full((20, 20, 3), 127, np.uint8))
    inspector = Bright()
    inspector.bundle = SimpleNamespace(threshold=None)
    with pytest.raises(BundleError, match="no threshold"):
        list(repeat_photos(inspector, [tmp_path / "0.png"], 2, Jitter()))  # type: ignore[arg-type]


def test_the_files_hold_every_part(tmp_path: Path) -> None:
    parts = [Part("a", (0.1, 0.2), 0), Part("b <i>", (0.4, 0.6), 1)]
    found = summarise(parts, 0.5)
    write_repeat(tmp_path, parts, found, {"shots_are": "as photographed"})
    with (tmp_path / "parts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["flipped"] for row in rows] == ["false", "true"]
    assert json.loads((tmp_path / "repeat.json").read_text())["flipped"] == 1
    page = (tmp_path / "index.html").read_text()
    assert page.count("<circle") == 2
    assert "<i>" not in page
