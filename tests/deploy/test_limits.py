from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from flawmap.config import ImageSettings
from flawmap.data.images import read_pixels, write_image
from flawmap.data.marks import opacity
from flawmap.data.scope import Scope
from flawmap.deploy.limits import Trial, check_photos, lines, run_trials, summarise, write_limits
from flawmap.errors import BundleError, ConfigError, DataError
from flawmap.measure.scores import find_regions


class Planted:
    """An inspector that rejects what differs from grey by more than `least` on at least `area` pixels."""

    def __init__(self, area: float, least: float = 0.03, scope: ImageSettings | None = None) -> None:
        self.area, self.least = area, least
        self.bundle = SimpleNamespace(threshold=object())
        self.scope = Scope(scope or ImageSettings())

    def read(self, path: Path) -> Any:
        return read_pixels(path)

    def inspect_read(self, images: list[np.ndarray]) -> list[Any]:
        return [self.inspect(image) for image in images]

    def inspect(self, image: np.ndarray) -> Any:
        values = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
        changed = (np.abs(values.mean(2) - 0.5) > self.least).astype(np.float32)
        regions = find_regions(changed, 0.5, min_area=1)
        largest = max((region.area for region in regions), default=0)
        return SimpleNamespace(defective=largest >= self.area, regions=regions, score=min(largest / 1000, 1.0))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    for number in range(6):
        write_image(tmp_path / f"{number}.png", np.full((80, 100, 3), 128, np.uint8))
    return sorted(tmp_path.glob("*.png"))


def test_the_limit_of_a_planted_detector_is_found(photos: list[Path]) -> None:
    """It sees spots of 60 pixels and more: a diameter of 8.7, when contrast is above its own."""
    sizes = [4.0, 6.0, 8.0, 10.0, 12.0, 16.0]
    trials = list(run_trials(Planted(60), photos, sizes=sizes, contrasts=[0.02, 0.3], seed=1))  # type: ignore[arg-type]
    assert len(trials) == 6 * 6 * 2
    faint, clear = summarise(trials)
    assert faint.contrast == 0.02
    assert faint.curve is not None
    assert faint.curve.a90 is None  # too faint at any size
    assert clear.curve is not None
    assert clear.curve.a90 is not None
    assert clear.curve.a90_95 is not None
    assert 8.0 <= clear.curve.a90 <= 10.5
    assert clear.curve.a90 < clear.curve.a90_95 <= 16
    assert clear.counts[6.0] == (0, 6)
    assert clear.counts[12.0] == (6, 6)


@pytest.mark.parametrize("shape", ["spot", "line"])
@pytest.mark.parametrize("size", [3.0, 8.0, 21.0])
def test_a_defect_has_the_size_it_is_said_to_have(shape: str, size: float) -> None:
    cover = opacity(64, 64, 31.3, 30.8, size, shape, 0.6)
    area = np.pi * size**2 / 4 if shape == "spot" else 2 * size
    assert cover.sum() == pytest.approx(area, rel=0.12)
    rows, columns = np.nonzero(cover > 0.5)
    longest = np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1) if shape == "line" else np.ptp(rows) + 1
    assert longest == pytest.approx(size, abs=2.2)
    middle = ndimage.center_of_mass(cover)
    assert middle == pytest.approx((30.8 - 0.5, 31.3 - 0.5), abs=0.2)


def test_a_defect_is_drawn_where_it_counts(photos: list[Path]) -> None:
    corner = ImageSettings(include=(((0.5, 0.5), (1.0, 0.5), (1.0, 1.0), (0.5, 1.0)),))
    trials = list(run_trials(Planted(20, scope=corner), photos, sizes=[6.0, 12.0], contrasts=[0.3]))  # type: ignore[arg-type]
    for trial in trials:
        assert trial.x - trial.size / 2 >= 49
        assert trial.y - trial.size / 2 >= 39


def test_a_rejection_elsewhere_is_no_hit(photos: list[Path]) -> None:
    class Elsewhere(Planted):
        def inspect(self, image: np.ndarray) -> Any:
            found = super().inspect(image)
            spot = np.zeros(image.shape[:2], np.float32)
            spot[:3, :3] = 1
            return SimpleNamespace(defective=found.defective, regions=find_regions(spot, 0.5), score=0.5)

    trials = list(run_trials(Elsewhere(10), photos, sizes=[6.0, 12.0], contrasts=[0.3], seed=4))  # type: ignore[arg-type]
    assert not any(trial.found for trial in trials if trial.x > 20 or trial.y > 20)


def test_a_contrast_is_kept_on_bright_and_dark_parts(tmp_path: Path) -> None:
    for number, level in enumerate((10, 245)):
        write_image(tmp_path / f"{number}.png", np.full((60, 60, 3), level, np.uint8))
    seen: list[np.ndarray] = []

    class Watching(Planted):
        def inspect(self, image: np.ndarray) -> Any:
            seen.append(image)
            return SimpleNamespace(defective=False, regions=[], score=0.1)

    list(run_trials(Watching(1), sorted(tmp_path.glob("*.png")), sizes=[9.0], contrasts=[0.4]))  # type: ignore[arg-type]
    dark, bright = seen[1], seen[3]
    assert dark.max() == pytest.approx(10 + 0.4 * 255, abs=1)
    assert bright.min() == pytest.approx(245 - 0.4 * 255, abs=1)


def test_the_depth_of_a_file_is_kept(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", np.full((60, 60, 3), 1000, np.uint16))
    seen: list[np.ndarray] = []

    class Watching(Planted):
        def inspect(self, image: np.ndarray) -> Any:
            seen.append(image)
            return SimpleNamespace(defective=False, regions=[], score=0.1)

    list(run_trials(Watching(1), [tmp_path / "0.png"], sizes=[9.0], contrasts=[0.001]))  # type: ignore[arg-type]
    assert [image.dtype for image in seen] == [np.uint16, np.uint16]
    assert int(np.abs(seen[1].astype(int) - 1000).max()) == pytest.approx(65.5, abs=1)


def test_a_defect_does_not_depend_on_what_happens_to_other_photos(photos: list[Path]) -> None:
    def places() -> dict[str, float]:
        trials = run_trials(Planted(60), photos, sizes=[8.0, 16.0], contrasts=[0.3])  # type: ignore[arg-type]
        return {trial.image: trial.x for trial in trials}

    whole = places()
    spoiled = np.full((80, 100, 3), 128, np.uint8)
    spoiled[10:40, 10:40] = 0
    write_image(photos[0], spoiled)
    rest = places()
    assert len(rest) == 5
    assert all(whole[image] == x for image, x in rest.items())


def test_a_region_whose_box_alone_holds_the_defect_is_no_hit(tmp_path: Path) -> None:
    """A diagonal scratch has a box that holds most of the image."""
    write_image(tmp_path / "0.png", np.full((100, 100, 3), 128, np.uint8))
    diagonal = np.zeros((100, 100), np.float32)
    for number in range(4, 96):
        diagonal[number, number - 2 : number + 2] = 1

    class Diagonal(Planted):
        calls = 0

        def inspect(self, image: np.ndarray) -> Any:
            self.calls += 1
            return SimpleNamespace(defective=self.calls > 1, regions=find_regions(diagonal, 0.5), score=0.5)

    trials = list(run_trials(Diagonal(1), [tmp_path / "0.png"], sizes=[4.0], contrasts=[0.3] * 200))  # type: ignore[arg-type]
    far = [trial for trial in trials if abs(trial.x - trial.y) > 20]
    near = [trial for trial in trials if abs(trial.x - trial.y) < 2 and 10 < trial.x < 90]
    assert far
    assert near
    assert not any(trial.found for trial in far)
    assert all(trial.found for trial in near)


def test_trials_of_few_photos_bound_less() -> None:
    """One photo in four finds little, the others nearly all: 400 trials look certain, 4 photos are not."""
    sizes = [4.0, 8.0, 16.0, 32.0, 64.0]

    def trials(images: int) -> list[Trial]:
        return [
            Trial(str(number % images), "spot", size, 0.1, 5, 5, size > (3 if number % 4 else 16), 0.5)
            for number in range(80)
            for size in sizes
        ]

    (many,), (few,) = summarise(trials(80)), summarise(trials(4))
    assert many.curve is not None
    assert few.curve is not None
    assert many.curve.a90 == few.curve.a90
    assert many.curve.a90_95 is not None
    assert few.curve.a90_95 is None or few.curve.a90_95 > many.curve.a90_95


def test_photos_that_are_rejected_as_they_are_take_no_part(photos: list[Path]) -> None:
    spoiled = np.full((80, 100, 3), 128, np.uint8)
    spoiled[10:40, 10:40] = 0
    write_image(photos[2], spoiled)
    said: list[str] = []
    trials = list(run_trials(Planted(60), photos, sizes=[8.0, 16.0], contrasts=[0.3], say=said.append))  # type: ignore[arg-type]
    assert len(trials) == 5 * 2
    assert said == ["1 of 6 photos are rejected as they are, and take no part"]
    with pytest.raises(DataError, match="none of the photos passes"):
        list(run_trials(Planted(0), photos, sizes=[8.0, 16.0]))  # type: ignore[arg-type]


def test_what_cannot_be_tried_is_refused(photos: list[Path]) -> None:
    with pytest.raises(ConfigError, match="no shape star"):
        list(run_trials(Planted(60), photos, shape="star"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no room in 100x80"):
        list(run_trials(Planted(60), photos, sizes=[4.0, 90.0]))  # type: ignore[arg-type]
    without = Planted(60)
    without.bundle.threshold = None
    with pytest.raises(BundleError, match="no threshold"):
        list(run_trials(without, photos))  # type: ignore[arg-type]


def test_the_files_hold_every_trial(photos: list[Path], tmp_path: Path) -> None:
    trials = list(run_trials(Planted(60), photos, sizes=[4.0, 8.0, 16.0], contrasts=[0.3], seed=1))  # type: ignore[arg-type]
    limits = summarise(trials)
    facts = {"shape": "spot", "photos": 6, "trials": len(trials)}
    write_limits(tmp_path, trials, limits, facts)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["found"] == "true" for row in rows] == [trial.found for trial in trials]
    document = json.loads((tmp_path / "limits.json").read_text())
    assert document["limits"][0]["a90"] == limits[0].curve.a90  # type: ignore[union-attr]
    page = (tmp_path / "index.html").read_text()
    assert page.count("<circle") == 3
    assert "a90/95" in page
    assert "http" not in page
    assert lines(limits)[1].startswith("30%")


def test_one_size_alone_gives_shares_and_no_curve(tmp_path: Path) -> None:
    trials = [Trial("a", "spot", 4.0, 0.1, 5, 5, number % 2 == 0, 0.5) for number in range(10)]
    (limit,) = summarise(trials)
    assert limit.curve is None
    assert limit.counts == {4.0: (5, 10)}
    write_limits(tmp_path, trials, [limit], {"shape": "spot", "photos": 1, "trials": 10})


def test_some_of_many_photos_are_drawn_by_the_seed() -> None:
    paths = [Path(f"{number:03}.png") for number in range(50)]
    chosen = check_photos(paths, 8, 0)
    assert len(chosen) == 8
    assert chosen == sorted(chosen)
    assert chosen == check_photos(paths, 8, 0)
    assert chosen != check_photos(paths, 8, 1)
    assert check_photos(paths[:5], 8, 0) == paths[:5]
