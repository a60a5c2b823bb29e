from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from flawmap.data.images import read_image, read_mask
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import (
    DEFECTS,
    SURFACE_DEFECTS,
    SURFACES,
    Image,
    draw_defective,
    draw_good,
    write_sample_parts,
)
from flawmap.errors import ConfigError, DataError

PAIRS = [(surface, defect) for surface in SURFACES for defect in SURFACE_DEFECTS[surface]]
# Mean change of grey over the core of the defect, in standard deviations of the good part's grey values.
CONTRAST = {
    "scratch": (2.5, 4.1),
    "crack": (3.0, 4.9),
    "stain": (1.3, 2.1),
    "dent": (1.6, 2.6),
    "hole": (1.8, 14),
    "missing-thread": (0.7, 4.5),
    "loose-thread": (0.7, 4.5),
    "faint-scratch": (0.8, 1.4),
    "faint-stain": (0.5, 1.0),
}
# Share of the part, in per cent, from 64 to 256 pixels a side.
AREA = {
    "scratch": (0.5, 7),
    "crack": (0.5, 8),
    "stain": (2, 20),
    "dent": (1.5, 13),
    "hole": (0.3, 7),
    "missing-thread": (0.5, 16),
    "loose-thread": (0.4, 9),
    "faint-scratch": (0.3, 5),
    "faint-stain": (2, 20),
}


def pair(surface: str, defect: str, size: int, seed: int) -> tuple[Image, Image, np.ndarray]:
    """The good part, the defective one of the same seed, and the mask."""
    good = draw_good(surface, size, np.random.default_rng(seed))
    return good, *draw_defective(surface, defect, size, np.random.default_rng(seed))


def contrast(good: Image, bad: Image) -> float:
    change = np.abs((bad - good).mean(2))
    return float(change[change > 0.35 * change.max()].mean() / good.mean(2).std())


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("size", [32, 64, 97, 128, 256])
@pytest.mark.parametrize("surface", SURFACES)
def test_a_good_part_is_a_lit_picture_in_range(surface: str, size: int) -> None:
    image = draw_good(surface, size, np.random.default_rng(size))
    assert image.shape == (size, size, 3) and image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1
    assert 0.25 < image.mean() < 0.8
    assert 0.02 < image.mean(2).std() < 0.2
    assert ((image == 0) | (image == 1)).mean() < 0.005


@pytest.mark.parametrize(("surface", "defect"), PAIRS)
def test_the_mask_is_where_the_defect_shows_and_nothing_else_changes(surface: str, defect: str) -> None:
    for size, seed in [(32, 0), (64, 1), (97, 2), (128, 3), (128, 4), (256, 5)]:
        good, bad, mask = pair(surface, defect, size, seed)
        assert mask.shape == (size, size) and mask.dtype == np.bool_
        assert bad.dtype == np.float32 and bad.min() >= 0 and bad.max() <= 1
        assert np.array_equal(mask, (np.abs(bad - good) > 2 / 255).any(2))
        assert np.array_equal(bad[~mask], good[~mask])


@pytest.mark.parametrize(("surface", "defect"), PAIRS)
def test_contrast_and_area_of_a_defect_lie_within_the_stated_bounds(surface: str, defect: str) -> None:
    for size, seeds in ((64, 4), (128, 4), (256, 2)):
        for seed in range(seeds):
            good, bad, mask = pair(surface, defect, size, seed)
            assert CONTRAST[defect][0] < contrast(good, bad) < CONTRAST[defect][1], (size, seed)
            assert AREA[defect][0] < 100 * mask.mean() < AREA[defect][1], (size, seed)


@pytest.mark.parametrize("surface", SURFACES)
def test_faint_defects_are_fainter_than_plain_ones(surface: str) -> None:
    faint = [defect for defect in SURFACE_DEFECTS[surface] if defect.startswith("faint-")]
    assert faint
    for defect in faint:
        plain = defect.removeprefix("faint-")
        strongest = max(contrast(*pair(surface, defect, 128, seed)[:2]) for seed in range(5))
        kin = plain if plain in SURFACE_DEFECTS[surface] else "stain"
        assert strongest < min(contrast(*pair(surface, kin, 128, seed)[:2]) for seed in range(5))
        assert strongest < 1.4


@pytest.mark.parametrize("surface", SURFACES)
def test_the_same_seed_draws_the_same_part_and_another_seed_another(surface: str) -> None:
    defect = SURFACE_DEFECTS[surface][0]
    first, again, other = (draw_defective(surface, defect, 64, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("surface", SURFACES)
def test_good_parts_differ_in_place_but_not_in_kind(surface: str) -> None:
    parts = [draw_good(surface, 128, np.random.default_rng(seed)) for seed in range(6)]
    for one, two in itertools.pairwise(parts):
        assert np.abs(one - two).mean() > 0.015
        assert np.abs(one.mean((0, 1)) - two.mean((0, 1))).max() < 0.12
        assert 0.6 < one.std() / two.std() < 1.6


def test_surfaces_have_their_own_colour_or_texture() -> None:
    looks = []
    for surface in SURFACES:
        image = draw_good(surface, 128, np.random.default_rng(0))
        grey = image.mean(2)
        looks.append([*image.mean((0, 1)), np.abs(np.diff(grey, axis=0)).mean(), np.abs(np.diff(grey, axis=1)).mean()])
    gaps = [np.abs(np.subtract(one, two)).max() for k, one in enumerate(looks) for two in looks[:k]]
    assert min(gaps) > 0.04


def test_brushing_and_wood_grain_run_across_the_picture() -> None:
    for surface in ("brushed-metal", "wood"):
        grey = draw_good(surface, 128, np.random.default_rng(1)).mean(2)
        assert np.abs(np.diff(grey, axis=0)).mean() > 1.4 * np.abs(np.diff(grey, axis=1)).mean()


def test_a_missing_thread_is_a_straight_gap_of_one_threads_width() -> None:
    for seed in range(8):
        _, _, mask = pair("fabric", "missing-thread", 128, seed)
        rows, columns = np.nonzero(mask)
        long, short = sorted((np.ptp(rows) + 1, np.ptp(columns) + 1), reverse=True)
        assert long > 40
        assert short < 22  # a turn of 0.05 across 128 pixels is 6 pixels, threads wander, and a thread is about 6 wide
        assert max(mask.sum(0).max(), mask.sum(1).max()) > 30
        assert min(mask.sum(0).max(), mask.sum(1).max()) <= 11


def test_every_defect_belongs_to_a_surface_and_every_surface_to_the_table() -> None:
    assert set(SURFACE_DEFECTS) == set(SURFACES)
    assert {defect for defects in SURFACE_DEFECTS.values() for defect in defects} == set(DEFECTS) == set(AREA)


def test_unknown_names_and_tiny_sizes_are_refused_in_one_line() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r"^no surface marble; there are: brushed-metal, fabric.*$"):
        draw_good("marble", 64, rng)
    with pytest.raises(ConfigError, match=r"^no defect missing-thread on wood; there are: scratch.*$"):
        draw_defective("wood", "missing-thread", 64, rng)
    with pytest.raises(ConfigError, match="at least 32"):
        draw_good("wood", 31, rng)


def test_sample_parts_are_an_mvtec_folder_with_defects_spread_evenly(tmp_path: Path) -> None:
    write_sample_parts(tmp_path / "new" / "parts", "fabric", 48, train=4, good=3, bad=7, seed=5)
    listing = read_layout(tmp_path / "new" / "parts")
    assert listing.layout == "mvtec"
    assert [len([s for s in listing.samples if s.split == split]) for split in ("train", "test")] == [4, 10]
    counts = {defect: 0 for defect in SURFACE_DEFECTS["fabric"]}
    for sample in listing.samples:
        assert read_image(sample.image).shape == (48, 48, 3)
        if sample.defective:
            assert sample.mask is not None
            assert read_mask(sample.mask, (48, 48)).any()
            counts[sample.kind] += 1
    assert sorted(counts.values()) == [1, 1, 1, 2, 2]


def test_a_written_part_is_the_drawn_part_of_its_number(tmp_path: Path) -> None:
    write_sample_parts(tmp_path, "wood", 40, train=1, good=1, bad=9, seed=3)
    second = draw_good("wood", 40, np.random.default_rng([3, 1, 0]))
    assert np.abs(read_image(tmp_path / "test" / "good" / "000.png") - second).max() <= 0.501 / 255
    defect = SURFACE_DEFECTS["wood"][1]
    image, mask = draw_defective("wood", defect, 40, np.random.default_rng([3, 2, 8]))
    assert np.abs(read_image(tmp_path / "test" / defect / "001.png") - image).max() <= 0.501 / 255
    assert np.array_equal(read_mask(tmp_path / "ground_truth" / defect / "001_mask.png", (40, 40)), mask)


def test_the_same_seed_writes_the_same_files_and_more_parts_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    for name, train, seed in (("one", 2, 1), ("two", 2, 1), ("more", 4, 1), ("other", 2, 2)):
        write_sample_parts(tmp_path / name, "cast-grain", 32, train, 1, 2, seed)
    one, two, more, other = (tree(tmp_path / name) for name in ("one", "two", "more", "other"))
    assert one == two
    assert {**more, **one}.keys() == more.keys() and all(more[name] == one[name] for name in one if "png" in name)
    assert all(other[name] != one[name] for name in one if name.startswith(("train", "test")))
    assert len({one[name] for name in one if name.endswith("/good/000.png")}) == 2


def test_an_earlier_output_is_replaced_and_nothing_of_it_remains(tmp_path: Path) -> None:
    write_sample_parts(tmp_path / "parts", "wood", 32, 5, 2, 7, 0)
    write_sample_parts(tmp_path / "parts", "fabric", 32, 2, 1, 1, 0)
    write_sample_parts(tmp_path / "fresh", "fabric", 32, 2, 1, 1, 0)
    assert tree(tmp_path / "parts") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("stranger", ["notes.txt", "train/good/mine.png", "test/good/000.jpg"])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path, stranger: str) -> None:
    write_sample_parts(tmp_path, "wood", 32, 1, 1, 1, 0)
    (tmp_path / stranger).write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(DataError, match="choose an empty or new folder"):
        write_sample_parts(tmp_path, "wood", 32, 1, 1, 1, 1)
    assert tree(tmp_path) == before


def test_an_mvtec_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    write_sample_parts(tmp_path, "wood", 32, 1, 1, 1, 0)
    (tmp_path / "readme.txt").write_text("MVTec Anomaly Detection")
    before = tree(tmp_path)
    with pytest.raises(DataError, match="not sample parts"):
        write_sample_parts(tmp_path, "wood", 32, 1, 1, 1, 0)
    assert tree(tmp_path) == before


def test_wrong_arguments_touch_no_earlier_output(tmp_path: Path) -> None:
    write_sample_parts(tmp_path, "wood", 32, 1, 1, 1, 0)
    before = tree(tmp_path)
    for surface, size, count, seed in (
        ("marble", 32, 1, 0),
        ("wood", 8, 1, 0),
        ("wood", 32, -1, 0),
        ("wood", 32, 1, -1),
    ):
        with pytest.raises(ConfigError):
            write_sample_parts(tmp_path, surface, size, count, 1, 1, seed)
    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("a file")
    with pytest.raises(DataError, match=r"cannot write parts to .*parts: File exists; choose another folder"):
        write_sample_parts(tmp_path / "parts", "wood", 32, 1, 1, 1, 0)
