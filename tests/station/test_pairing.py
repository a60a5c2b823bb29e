"""Masks sent with the defective photos of a data set are known, learnt by and named; so are photos of another depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flawmap.data.defects import read_defects
from flawmap.data.images import encode_png
from flawmap.errors import StationError
from flawmap.station import checking
from flawmap.station.datasets import DataSets
from flawmap.station.settings import LimitSettings

RNG = np.random.default_rng(0)


def photo(deep: bool = False) -> bytes:
    pixels = RNG.normal(120, 8, (64, 80)).clip(0, 255)
    if deep:  # 12 bits in 16
        return encode_png((pixels * 16).astype(np.uint16))
    return encode_png(pixels.astype(np.uint8))


def mask(empty: bool = False, shape: tuple[int, int] = (64, 80)) -> bytes:
    pixels = np.zeros(shape, np.uint8)
    pixels[8:20, 10:30] = 0 if empty else 255
    return encode_png(pixels)


@pytest.fixture
def sets(tmp_path: Path) -> DataSets:
    return DataSets(tmp_path / "datasets", LimitSettings())


def filled(sets: DataSets, files: dict[str, bytes], kind: str = "defective") -> str:
    ident = str(sets.make("part")["id"])
    for name, data in files.items():
        sets.add(ident, kind, name, data)
    return ident


def pairs(sets: DataSets, ident: str) -> dict[str, str | None]:
    """Names of the masks with those of their photos."""
    photos = sets.get(ident)["photos"]
    names = {one["id"]: one["name"] for one in photos}
    return {one["name"]: names.get(one["of"]) for one in photos if one["kind"] == "mask"}


def trained_on(sets: DataSets, ident: str, folder: Path) -> list[int]:
    """How many masks each defective photo has where a training finds it."""
    for place, file in sets.files(ident).items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(file.read_bytes())
    return [len(sample.masks) for sample in read_defects(folder / "defective").samples]


@pytest.mark.parametrize(
    "name", ["{}_mask", "{}_GT", "{}_label", "{}", "mask_{}", "{}_bw", "masks/{}", "masks\\{}", "{} (mask)"]
)
@pytest.mark.parametrize("first", ["photos", "masks"])
def test_masks_are_known_whichever_comes_first(sets: DataSets, tmp_path: Path, name: str, first: str) -> None:
    photos = {f"IMG_{n}.png": photo() for n in range(3)}
    masks = {f"{name.format(f'IMG_{n}')}.{'png' if name != '{}' else 'PNG'}": mask() for n in range(3)}
    ident = filled(sets, {**photos, **masks} if first == "photos" else {**masks, **photos})
    assert pairs(sets, ident) == dict(zip(masks, photos, strict=True))
    found = sets.get(ident)
    assert (found["defective"], found["masks"]) == (3, 3) and not any("look" in one for one in found["photos"])
    assert trained_on(sets, ident, tmp_path / "learnt") == [1, 1, 1]


def test_masks_of_one_photo_are_all_learnt_by_and_an_empty_one_is_one(sets: DataSets, tmp_path: Path) -> None:
    files = {"a.png": photo(), "a_mask_1.png": mask(), "a_mask_2.png": mask(), "b.png": photo()}
    ident = filled(sets, {**files, "b_mask.png": mask(empty=True)})
    assert pairs(sets, ident) == {"a_mask_1.png": "a.png", "a_mask_2.png": "a.png", "b_mask.png": "b.png"}
    assert sorted(trained_on(sets, ident, tmp_path / "learnt")) == [1, 2]


def test_a_mask_without_a_photo_of_its_name_and_size_is_named_and_not_learnt_from(
    sets: DataSets, tmp_path: Path
) -> None:
    files = {"a.png": photo(), "x_mask.png": mask(), "a_gt.png": mask(shape=(32, 40)), "y_label.png": mask()}
    ident = filled(sets, files)
    assert pairs(sets, ident) == dict.fromkeys(["x_mask.png", "a_gt.png", "y_label.png"])
    assert trained_on(sets, ident, tmp_path / "learnt") == [0]
    sets._check(ident)
    problems = {one["name"]: [each["code"] for each in one["problems"]] for one in sets.get(ident)["photos"]}
    assert problems == {
        "a.png": [],
        "x_mask.png": ["mask-alone"],
        "a_gt.png": ["mask-alone"],
        "y_label.png": ["mask-alone"],
    }
    assert sets.get(ident)["summary"] == ["3 masks have no photo"]


def test_a_mask_loses_its_photo_with_it(sets: DataSets) -> None:
    ident = filled(sets, {"a.png": photo(), "a_mask.png": mask()})
    sets.remove_photo(ident, sets.get(ident)["photos"][0]["id"])
    assert pairs(sets, ident) == {"a_mask.png": None}


def test_photos_in_two_colours_and_of_like_names_stay_photos(sets: DataSets) -> None:
    drawn = filled(sets, {f"{name}.png": mask() for name in ("1", "1_2", "2", "2b")})
    plain = filled(sets, {f"{name}.png": photo() for name in ("1", "1_2", "1_label", "2", "2_mk")})
    assert [sets.get(ident)["defective"] for ident in (drawn, plain)] == [4, 5]


def test_a_mask_sent_as_a_good_photo_is_refused(sets: DataSets) -> None:
    ident = filled(sets, {"a.png": photo()}, "good")
    for name in ("a_mask.png", "a_label.png", "other_gt.png"):
        with pytest.raises(StationError, match="a mask by its name and look") as caught:
            sets.add(ident, "good", name, mask())
        assert (caught.value.status, caught.value.code) == (422, "mask")
    sets.add(ident, "good", "b_label.png", mask())  # no photo of this name: a part before a light, say
    assert sets.get(ident)["good"] == 2 == len(list((sets.folder / ident / "good").iterdir()))


@pytest.mark.parametrize(("deep", "code"), [((0,), "depth-16"), ((0, 1, 2), "depth-8")])
@pytest.mark.parametrize("kind", ["good", "defective"])
def test_a_photo_of_another_depth_is_named(sets: DataSets, deep: tuple[int, ...], code: str, kind: str) -> None:
    ident = filled(sets, {f"g{n}.png": photo(n in deep) for n in range(4)}, "good")
    if kind == "defective":
        ident = filled(sets, {f"g{n}.png": photo(len(deep) > 1) for n in range(4)}, "good")
        sets.add(ident, "defective", "odd.png", photo(len(deep) == 1))
    sets._check(ident)
    found = sets.get(ident)
    odd = [one["name"] for one in found["photos"] if code in [each["code"] for each in one["problems"]]]
    assert odd == (["odd.png"] if kind == "defective" else [f"g{0 if len(deep) == 1 else 3}.png"])
    assert found["summary"] == ["1 photo is stored otherwise"]


def test_a_photo_far_darker_at_the_common_level_is_named(tmp_path: Path, capsys: Any) -> None:
    bright = RNG.normal(40000, 500, (64, 80)).astype(np.uint16)
    for number in range(4):
        pixels = bright if number else bright // 16
        (tmp_path / f"{number}.png").write_bytes(encode_png(pixels))
    checking.check(tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert '"photo": "0"' in line and "depth-dark" in line
