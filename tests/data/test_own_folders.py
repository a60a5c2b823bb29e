"""Folders as people lay them out: names, capitals, masks wherever they are kept; a mask is never taken for a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy import ndimage

from flawmap.data.defects import defective_photos, read_defects
from flawmap.data.images import encode_jpeg, encode_png, read_image, write_image
from flawmap.data.layouts import Listing, gather, read_layout, refuse_doubtful_among_good
from flawmap.data.layouts.names import is_bad, is_good, is_mask_folder
from flawmap.errors import ImageError, LayoutError

RNG = np.random.default_rng(0)
Draw = Callable[[Path], None]


def photo(path: Path, bad: bool = False) -> None:
    pixels = RNG.normal(120, 8, (32, 40)).clip(0, 255).astype(np.uint8)
    if bad:
        pixels[8:14, 10:20] = 20
    save(path, pixels)


def mask(path: Path) -> None:
    pixels = np.zeros((32, 40), np.uint8)
    pixels[8:14, 10:20] = 255
    save(path, pixels)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")
    if path.suffix.lower() in (".bmp", ".tif"):
        write_image(path, pixels)
    else:
        path.write_bytes(encode_jpeg(pixels) if jpeg else encode_png(pixels))


def masks_of(listing: Listing) -> dict[str, list[str]]:
    """Masks of each defective test image, by their paths below the root."""
    return {
        sample.image.relative_to(listing.root).as_posix(): [
            part.relative_to(listing.root).as_posix() for part in sample.masks
        ]
        for sample in listing.test
        if sample.defective
    }


def refused(root: Path) -> str:
    with pytest.raises(LayoutError) as caught:
        read_layout(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def good_and_bad(root: Path, suffix: str = ".png", bad: str = "bad") -> None:
    for number in range(5):
        photo(root / "good" / f"g{number}{suffix}")
    for number in range(2):
        photo(root / bad / f"b{number}{suffix}", bad=True)


FOLDERS = ["masks", "Mask", "gt", "GT", "ground_truth", "GroundTruth", "ground-truth", "ground_truth_1", "mask_images"]
FOLDERS += [
    "labels",
    "Label",
    "annotations",
    "SegmentationClass",
    "seg",
    "segmentation",
    "roi",
    "defect masks",
    "Maske",
]
FOLDERS += ["anything", "bad_masks", "train_gt", "标注"]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("ending", ["", "_mask", "_gt", "-label"])
def test_a_folder_of_masks_is_known_by_its_name_or_its_pictures(tmp_path: Path, name: str, ending: str) -> None:
    good_and_bad(tmp_path)
    for number in range(2):
        mask(tmp_path / name / f"b{number}{ending}.png")
    listing = read_layout(tmp_path)
    assert masks_of(listing) == {f"bad/b{n}.png": [f"{name}/b{n}{ending}.png"] for n in range(2)}
    assert len(read_defects(tmp_path / "bad").samples) == 2
    (tmp_path / "alone").mkdir()
    (tmp_path / "bad").rename(tmp_path / "alone" / "bad")
    (tmp_path / name).rename(tmp_path / "alone" / name)
    learnt = read_defects(tmp_path / "alone")
    assert [(sample.image.parent.name, sample.mask is not None) for sample in learnt.samples] == [("bad", True)] * 2


@pytest.mark.parametrize("ending", ["_mask", "_MASK", "-mask", ".mask", "_gt", "_GT", "_label", "_seg", " mask"])
@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".PNG"])
def test_masks_beside_photos_are_known_by_their_names(tmp_path: Path, ending: str, suffix: str) -> None:
    good_and_bad(tmp_path, suffix)
    for number in range(2):
        mask(tmp_path / "bad" / f"b{number}{ending}.png")
    listing = read_layout(tmp_path)
    assert masks_of(listing) == {f"bad/b{n}{suffix}": [f"bad/b{n}{ending}.png"] for n in range(2)}
    assert sum(sample.mask is not None for sample in read_defects(tmp_path / "bad").samples) == 2


@pytest.mark.parametrize(("suffix", "other"), [(".jpg", ".png"), (".JPG", ".PNG"), (".bmp", ".png"), (".jpeg", ".tif")])
def test_a_mask_of_its_photos_name_is_known_by_its_few_levels(tmp_path: Path, suffix: str, other: str) -> None:
    good_and_bad(tmp_path, suffix, "NG/scratch/S0001")
    for number in range(2):
        mask(tmp_path / "NG" / "scratch" / "S0001" / f"b{number}{other}")
    listing = read_layout(tmp_path)
    inside = "NG/scratch/S0001"
    assert masks_of(listing) == {f"{inside}/b{n}{suffix}": [f"{inside}/b{n}{other}"] for n in range(2)}
    assert {sample.kind for sample in listing.test if sample.defective} == {"scratch"}
    assert len(read_defects(tmp_path / "NG").samples) == 2


def test_two_photos_of_one_name_are_two_photos(tmp_path: Path) -> None:
    good_and_bad(tmp_path)
    for number in range(2):
        photo(tmp_path / "bad" / f"b{number}.jpg", bad=True)
    assert len(masks_of(read_layout(tmp_path))) == 4


def test_pairs_and_masks_among_images_alone_are_not_learnt_from(tmp_path: Path) -> None:
    for number in range(4):
        photo(tmp_path / "pairs" / f"{number}.jpg", bad=True)
        mask(tmp_path / "pairs" / f"{number}.png")
        photo(tmp_path / "named" / f"{number}.png", bad=True)
        mask(tmp_path / "named" / f"{number}_gt.png")
    for name in ("pairs", "named"):
        assert "which images are good? 4 look like masks of others" in refused(tmp_path / name)
        assert len(read_layout(tmp_path / name, "images").train_good) == 8


def test_numbered_masks_of_one_photo_are_united(tmp_path: Path) -> None:
    good_and_bad(tmp_path)
    for number in (1, 2):
        mask(tmp_path / "masks" / f"b0_mask_{number}.png")
    assert masks_of(read_layout(tmp_path)) == {
        "bad/b0.png": ["masks/b0_mask_1.png", "masks/b0_mask_2.png"],
        "bad/b1.png": [],
    }


def test_masks_in_folders_by_camera_are_found(tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        photo(tmp_path / "train" / "good" / camera / "0.png")
        photo(tmp_path / "test" / "scratch" / camera / "0.png", bad=True)
        mask(tmp_path / "ground_truth" / "scratch" / camera / "0_mask.png")
        photo(tmp_path / "plain" / "good" / camera / "1.png")
        photo(tmp_path / "plain" / "bad" / camera / "images" / "1.png", bad=True)
        mask(tmp_path / "plain" / "bad" / camera / "masks" / "1.png")
    (tmp_path / "plain").rename(tmp_path.parent / f"{tmp_path.name} plain")
    listing = read_layout(tmp_path)
    assert len(listing.train_good) == 2
    assert masks_of(listing) == {
        f"test/scratch/{camera}/0.png": [f"ground_truth/scratch/{camera}/0_mask.png"] for camera in ("cam1", "cam2")
    }
    assert masks_of(read_layout(tmp_path.parent / f"{tmp_path.name} plain")) == {
        f"bad/{camera}/images/1.png": [f"bad/{camera}/masks/1.png"] for camera in ("cam1", "cam2")
    }


@pytest.mark.parametrize("folder", ["labels", "masks", "gt", "results", "2024-01-02"])
def test_masks_that_no_photo_has_the_name_of_are_asked_about(tmp_path: Path, folder: str) -> None:
    good_and_bad(tmp_path)
    mask(tmp_path / folder / "x9.png")
    assert f"{folder} {'holds' if folder in ('masks', 'gt') else 'looks like'} masks, but no photos" in refused(
        tmp_path
    )


ENDINGS = "_bw _m _mk _msk _defect _binary _truth _annotated _color _L _lesion _cp_masks _PIXEL _bin _segm _ann _class"
ENDINGS += " _prediction _png_Label _overlay .gt -ROI1 (mask) Mask _1"


@pytest.mark.parametrize("name", [f"b{{}}{ending}" for ending in ENDINGS.split()] + ["m_b{}", "bw_b{}", "annot-b{}"])
def test_what_is_drawn_and_named_after_a_photo_is_its_mask(tmp_path: Path, name: str) -> None:
    good_and_bad(tmp_path)
    for number in range(2):
        mask(tmp_path / "bad" / f"{name.format(number)}.png")
    wanted = {f"bad/b{n}.png": [f"bad/{name.format(n)}.png"] for n in range(2)}
    assert masks_of(read_layout(tmp_path)) == wanted
    assert [sample.mask is not None for sample in read_defects(tmp_path / "bad").samples] == [True] * 2
    for folder in ("results", "gt", "labels"):
        for number in range(2):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / "bad" / f"{name.format(number)}.png").rename(tmp_path / folder / f"{name.format(number)}.png")
        wanted = {f"bad/b{n}.png": [f"{folder}/{name.format(n)}.png"] for n in range(2)}
        assert masks_of(read_layout(tmp_path)) == wanted
        (tmp_path / folder).rename(tmp_path / "bad" / "moved")
        for file in (tmp_path / "bad" / "moved").iterdir():
            file.rename(tmp_path / "bad" / file.name)
        (tmp_path / "bad" / "moved").rmdir()
    flat = tmp_path / "flat"
    (tmp_path / "bad").rename(flat)
    for file in (tmp_path / "good").iterdir():
        file.rename(flat / file.name)
    assert "which images are good? 2 look like masks of others" in refused(flat)


@pytest.mark.parametrize("folder", ["gt", "masks"])
def test_a_mask_named_by_the_number_of_its_photo_alone_is_found(tmp_path: Path, folder: str) -> None:
    good_and_bad(tmp_path)
    for number in range(2):
        mask(tmp_path / folder / f"{number}.png")
        (tmp_path / "bad" / f"b{number}.png").rename(tmp_path / "bad" / f"IMG_{number}.png")
    assert masks_of(read_layout(tmp_path)) == {f"bad/IMG_{n}.png": [f"{folder}/{n}.png"] for n in range(2)}


@pytest.mark.parametrize("names", [("part1", "part10"), ("part_1", "part_1_2"), ("p1", "p1_top"), ("1", "1b")])
@pytest.mark.parametrize("draw", [photo, mask])
def test_photos_whose_names_hold_others_names_stay_photos(tmp_path: Path, names: tuple[str, str], draw: Draw) -> None:
    for name in names:
        draw(tmp_path / "good" / f"{name}.png")
        draw(tmp_path / "bad" / f"{name}.png")
    assert Counter(sample.kind for sample in read_layout(tmp_path).samples) == {"good": 2, "bad": 2}


def test_one_black_photo_among_others_is_no_mask_and_stops_nothing(tmp_path: Path) -> None:
    good_and_bad(tmp_path)
    for number in range(2):
        photo(tmp_path / "bad" / f"b{number}_2.png", bad=True)
    save(tmp_path / "bad" / "b1_2.png", np.zeros((32, 40), np.uint8))
    assert len(masks_of(read_layout(tmp_path))) == 4


def test_drawn_pictures_of_another_size_are_asked_about(tmp_path: Path) -> None:
    good_and_bad(tmp_path)
    for number in range(2):
        save(tmp_path / "bad" / f"b{number}_logo.png", np.pad(np.full((4, 4), 255, np.uint8), 6))
    assert "are b0_logo.png and the like masks of b0.png and the like, or photos of parts?" in refused(tmp_path)


def soft(pixels: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(pixels.astype(np.float32), 1.5).astype(np.uint8)


SOFT: dict[str, Callable[[np.ndarray, Path], None]] = {
    "blurred": lambda shape, path: Pillow.fromarray(soft(shape * np.uint8(255))).save(path.with_suffix(".tif")),
    "faint": lambda shape, path: Pillow.fromarray(soft(shape * np.uint8(90))).save(path.with_suffix(".tif")),
    "float": lambda shape, path: Pillow.fromarray(soft(shape * np.uint8(255)) / np.float32(255)).save(
        path.with_suffix(".tif")
    ),
    "red JPEG": lambda shape, path: coloured(shape, (0, 0, 0)).save(path.with_suffix(".jpg"), quality=75),
    "red on white JPEG": lambda shape, path: coloured(shape, (255, 255, 255)).save(path.with_suffix(".jpg")),
    "red on white": lambda shape, path: coloured(shape, (255, 255, 255)).save(path.with_suffix(".bmp")),
    "int32": lambda shape, path: Pillow.fromarray(shape.astype(np.int32)).save(path.with_suffix(".tif")),
    "one of two": lambda shape, path: Pillow.fromarray(
        (soft if "0" in path.name else np.asarray)(shape * np.uint8(255))
    ).save(path.with_suffix(".tif")),
}


def coloured(shape: np.ndarray, behind: tuple[int, int, int]) -> Pillow.Image:
    return Pillow.fromarray(np.where(shape[..., None], (255, 0, 0), behind).astype(np.uint8))


@pytest.mark.parametrize("ending", ["", "_label", "_labels", "_seg", "_annotation", "_gt", "_x"])
@pytest.mark.parametrize("name", SOFT)
def test_masks_with_soft_edges_are_all_masks(tmp_path: Path, name: str, ending: str) -> None:
    rng = np.random.default_rng(1)
    for number in range(7):
        side = 60 + 10 * number
        for folder in ("good", "bad"):
            pixels = rng.normal(120, 8, (side, 120)).clip(0, 255).astype(np.uint8)
            save(tmp_path / folder / f"b{number}.png", pixels)
        shape = np.zeros((side, 120), bool)
        shape[20 : 24 + 3 * number, 30 : 40 + 8 * number] = True
        SOFT[name](shape, tmp_path / "bad" / f"b{number}{ending}.png")
    found = masks_of(read_layout(tmp_path))
    assert sorted(map(len, found.values())) == [1] * 7


@pytest.mark.parametrize("name", ["annotated", "overlay", "Heatmaps"])
def test_photos_drawn_over_are_asked_about(tmp_path: Path, name: str) -> None:
    good_and_bad(tmp_path)
    for number in range(2):
        photo(tmp_path / name / f"b{number}.png", bad=True)
    assert f"{name}: are these masks or photos?" in refused(tmp_path)


def test_a_kind_of_defect_named_as_masks_are_is_one_where_its_pictures_are_photos(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / "train" / "good" / f"{number}.png")
        photo(tmp_path / "test" / "good" / f"{number}.png")
        photo(tmp_path / "test" / "label" / f"{number}.png", bad=True)
        mask(tmp_path / "ground_truth" / "label" / f"{number}_mask.png")
    assert masks_of(read_layout(tmp_path)) == {
        f"test/label/{n}.png": [f"ground_truth/label/{n}_mask.png"] for n in range(3)
    }


def test_photos_in_two_colours_are_no_masks_of_each_other(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        for number in range(3):
            mask(tmp_path / name / f"{number}.png")
    assert Counter(sample.kind for sample in read_layout(tmp_path).samples) == {"good": 3, "bad": 3}


def halves(root: Path, suffix: str = ".png", kind: str = "scratch", good: str = "good") -> None:
    """train/good, test/good, test/<kind> and its masks, in the layout of MVTec AD."""
    for number in range(3):
        photo(root / "train" / "good" / f"{number:03}{suffix}")
        photo(root / "test" / good / f"{number:03}{suffix}")
        photo(root / "test" / kind / f"{number:03}{suffix}", bad=True)
        mask(root / "ground_truth" / kind / f"{number:03}_mask.png")


@pytest.mark.parametrize(("suffix", "masks"), [(".png", ".Png"), (".JPG", ".png"), (".bmp", ".PNG")])
def test_suffixes_in_capitals_are_the_same_beside_train_and_test(tmp_path: Path, suffix: str, masks: str) -> None:
    halves(tmp_path, suffix)
    for file in (tmp_path / "ground_truth" / "scratch").iterdir():
        file.rename(file.with_suffix(masks))
    found = {f"test/scratch/{n:03}{suffix}": [f"ground_truth/scratch/{n:03}_mask{masks}"] for n in range(3)}
    assert masks_of(read_layout(tmp_path)) == found


def test_numbered_masks_beside_train_and_test_are_united(tmp_path: Path) -> None:
    halves(tmp_path)
    folder = tmp_path / "ground_truth" / "scratch"
    for number in range(3):
        (folder / f"{number:03}_mask.png").rename(folder / f"{number:03}_mask_1.png")
        mask(folder / f"{number:03}_mask_2.png")
    assert [len(parts) for parts in masks_of(read_layout(tmp_path)).values()] == [2, 2, 2]


def test_of_two_masks_of_one_photo_the_one_that_is_not_used_is_noted(tmp_path: Path) -> None:
    halves(tmp_path)
    mask(tmp_path / "ground_truth" / "scratch" / "000.png")
    listing = read_layout(tmp_path)
    assert masks_of(listing)["test/scratch/000.png"] == ["ground_truth/scratch/000_mask.png"]
    assert "1 images are no part of the layout and left out (ground_truth/scratch/000.png, …)" in listing.notes


def test_a_mask_of_two_photos_of_one_name_is_asked_about(tmp_path: Path) -> None:
    halves(tmp_path)
    photo(tmp_path / "test" / "scratch" / "000.jpg", bad=True)
    words = refused(tmp_path)
    assert "000_mask.png would be the mask of both" in words and "000.jpg" in words and "give each its own" in words


def test_a_layout_as_real_iad_keeps_it_is_read(tmp_path: Path) -> None:
    """OK/S*/x.jpg, NG/<kind>/S*/x.jpg with its mask x.png beside."""
    for number in range(10):
        photo(tmp_path / "OK" / f"S{number:04}" / f"part_{number:04}_OK_C1.jpg")
    for kind in ("AK", "HS"):
        for number in range(3):
            place = tmp_path / "NG" / kind / f"S{number:04}"
            photo(place / f"part_{number:04}_NG_{kind}_C1.jpg", bad=True)
            mask(place / f"part_{number:04}_NG_{kind}_C1.png")
    listing = read_layout(tmp_path)
    assert (listing.layout, len(listing.train_good)) == ("folder", 8)
    assert Counter(sample.kind for sample in listing.test) == {"good": 2, "AK": 3, "HS": 3}
    assert {image: [image[:-3] + "png"] for image in masks_of(listing)} == masks_of(listing)


def test_a_folder_of_masks_for_each_kind_of_defect_is_read(tmp_path: Path) -> None:
    """As the MSD set of phone screens: good, oil, scratch, ground_truth_1, ground_truth_2."""
    for number in range(10):
        photo(tmp_path / "good" / f"g{number}.bmp")
    for number in range(4):
        for place, kind in enumerate(("oil", "scratch"), 1):
            photo(tmp_path / kind / f"{kind.title()}_{number:04}.jpg", bad=True)
            mask(tmp_path / f"ground_truth_{place}" / f"{kind.title()}_{number:04}.png")
    listing = read_layout(tmp_path)
    assert Counter(sample.kind for sample in listing.test) == {"good": 2, "oil": 4, "scratch": 4}
    assert masks_of(listing) == {
        f"{kind}/{kind.title()}_{n:04}.jpg": [f"ground_truth_{place}/{kind.title()}_{n:04}.png"]
        for place, kind in enumerate(("oil", "scratch"), 1)
        for n in range(4)
    }


def test_masks_of_the_names_of_good_photos_too_are_those_of_the_defective(tmp_path: Path) -> None:
    for number in range(5):
        photo(tmp_path / "good" / f"{number}.png")
    for number in range(3):
        photo(tmp_path / "bad" / f"{number}.png", bad=True)
        mask(tmp_path / "masks" / f"{number}.png")
    listing = read_layout(tmp_path)
    assert masks_of(listing) == {f"bad/{n}.png": [f"masks/{n}.png"] for n in range(3)}
    assert not any(sample.masks for sample in listing.samples if not sample.defective)


def test_any_name_any_way_to_the_folder_and_links_give_the_same_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "odd [a] 100% #1 ünï 检测"
    halves(root, kind="划痕 [1]*")
    plain = masks_of(read_layout(root))
    assert plain == {f"test/划痕 [1]*/{n:03}.png": [f"ground_truth/划痕 [1]*/{n:03}_mask.png"] for n in range(3)}
    monkeypatch.chdir(tmp_path)
    assert masks_of(read_layout(Path("../" + tmp_path.name) / "." / root.name)) == plain
    (tmp_path / "link").symlink_to(root)
    assert masks_of(read_layout(tmp_path / "link")) == plain
    (tmp_path / "inside" / "train").mkdir(parents=True)
    (tmp_path / "inside" / "train" / "good").symlink_to(root / "train" / "good")
    for name in ("test", "ground_truth"):
        (tmp_path / "inside" / name).symlink_to(root / name)
    listing = read_layout(tmp_path / "inside")
    assert masks_of(listing) == plain and len(listing.train_good) == 3


def test_a_link_to_a_photo_that_is_gone_is_listed_and_named_when_it_is_read(tmp_path: Path) -> None:
    halves(tmp_path)
    (tmp_path / "train" / "good" / "999.png").symlink_to(tmp_path / "nowhere.png")
    listing = read_layout(tmp_path)
    assert len(listing.train_good) == 4
    with pytest.raises(ImageError, match=r"999\.png: there is no such file"):
        read_image(listing.train_good[-1].image)


def test_what_the_system_leaves_among_photos_is_no_photo(tmp_path: Path) -> None:
    halves(tmp_path)
    for name in ("Thumbs.db", "._000.png", ".DS_Store"):
        (tmp_path / "train" / "good" / name).write_bytes(b"x")
    photo(tmp_path / "train" / "good" / "000 (1).png")
    listing = read_layout(tmp_path)
    assert len(listing.train_good) == 4
    assert "1 files are not images and left out (train/good/Thumbs.db, …)" in listing.notes
    assert any(note.startswith("2 hidden files or folders are left out") for note in listing.notes)


def test_without_good_parts_to_test_on_the_rest_is_read(tmp_path: Path) -> None:
    halves(tmp_path)
    for file in (tmp_path / "test" / "good").iterdir():
        file.unlink()
    (tmp_path / "test" / "good").rmdir()
    listing = read_layout(tmp_path)
    assert len(listing.train_good) == 3 and Counter(sample.kind for sample in listing.test) == {"scratch": 3}


# --- good and bad --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["good", "Good", "OK", "ok", "normal", "i.O.", "GUT"])
@pytest.mark.parametrize("test", ["good", "Good", "OK", "Normal", "i. O.", "Pass"])
def test_good_parts_are_known_in_either_half(tmp_path: Path, train: str, test: str) -> None:
    for number in range(3):
        photo(tmp_path / "train" / train / f"{number}.png")
        photo(tmp_path / "test" / test / f"{number}.png")
        photo(tmp_path / "test" / "n.i.O." / f"{number}.png", bad=True)
    listing = read_layout(tmp_path)
    assert (listing.layout, len(listing.train_good)) == ("mvtec", 3)
    assert Counter(sample.kind for sample in listing.test) == {"good": 3, "n.i.O.": 3}


def test_good_parts_in_folders_by_part_are_learnt_from(tmp_path: Path) -> None:
    for part in "ab":
        photo(tmp_path / "train" / "good" / part / "0.png")
    photo(tmp_path / "train" / "good" / "1.png")
    photo(tmp_path / "test" / "good" / "0.png")
    assert len(read_layout(tmp_path).train_good) == 3


@pytest.mark.parametrize(
    "name", ["bad", "NG", "defect", "Defective", "n.i.O.", "NOK", "bad_parts", "scratch", "Ausschuss"]
)
def test_a_folder_of_defective_parts_alone_is_not_learnt_from(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "set" / name / "0.png", bad=True)
    words = "which images are good? All lie in"
    assert words in refused(tmp_path / "set")
    assert len(read_layout(tmp_path / "set", "images").train_good) == 1
    if name not in ("bad_parts",):
        assert words in refused(tmp_path / "set" / name)
    assert len(read_defects(tmp_path / "set").samples) == len(read_defects(tmp_path / "set" / name).samples) == 1


def test_halves_without_good_parts_are_no_categories(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "parts" / "0.png")
    photo(tmp_path / "test" / "parts" / "good" / "0.png")
    photo(tmp_path / "test" / "parts" / "bad" / "0.png")
    words = refused(tmp_path)
    assert "category" not in words and "which images are good?" in words


def test_classes_by_number_are_asked_about(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / "many" / str(number) / "0.png")
    assert "which images are good? The folders 0, 1, 2 are classes" in refused(tmp_path / "many")
    for number in range(2):
        photo(tmp_path / "two" / str(number) / "0.png")
    assert Counter(sample.kind for sample in read_layout(tmp_path / "two").samples) == {"good": 1, "1": 1}


def test_beside_train_good_a_class_0_is_good(tmp_path: Path) -> None:
    halves(tmp_path, kind="1", good="0")
    photo(tmp_path / "test" / "2" / "0.png", bad=True)
    assert Counter(sample.kind for sample in read_layout(tmp_path).test) == {"good": 3, "1": 3, "2": 1}


def test_names() -> None:
    assert all(map(is_good, ("Good", "OK", "i.O.", "defect-free", "No_Defect", "良品")))
    assert not any(map(is_good, ("NG", "n.i.O.", "not good", "1", "goods")))
    assert all(map(is_bad, ("NG", "not_ok", "bad parts", "ScratchDeep", "不良")))
    assert not any(map(is_bad, ("defect-free", "no_defects", "part7", "OK", "camera 1")))
    assert all(map(is_mask_folder, ("GT", "Ground Truth", "ground_truth_2", "Masks")))
    assert not any(map(is_mask_folder, ("label", "solder_mask", "masked")))


PLAINLY_GOOD = (
    "GOOD_PARTS good_01 Good1 okay OK_images Gutteile non-defective not_defective no-anomaly Accept accepted "
)
PLAINLY_GOOD += "acceptable fehlerfrei without_defect ohne_Fehler Normals normal_images ok-teile einwandfrei GoodImages"
ASKED = (
    "clean healthy negative golden reference intact bueno class0 ok_more good_light unlabeled calibration Kalibrierung"
)


@pytest.mark.parametrize("name", PLAINLY_GOOD.split())
def test_names_that_say_good_are_good_beside_train_good(tmp_path: Path, name: str) -> None:
    for number in range(3):
        photo(tmp_path / "train" / "good" / f"{number}.png")
        photo(tmp_path / "test" / name / f"{number}.png")
        photo(tmp_path / "test" / "Schrott" / f"{number}.png", bad=True)
    assert Counter(sample.kind for sample in read_layout(tmp_path).test) == {"good": 3, "Schrott": 3}
    assert {sample.kind for sample in read_defects(tmp_path / "test").samples} == {"Schrott"}


@pytest.mark.parametrize("name", ASKED.split())
def test_names_that_may_say_good_are_asked_about(tmp_path: Path, name: str) -> None:
    good_and_bad(tmp_path / "plain")
    photo(tmp_path / "plain" / name / "0.png")
    assert f"are the images in {name} good or defective?" in refused(tmp_path / "plain")
    photo(tmp_path / "halves" / "train" / "good" / "0.png")
    photo(tmp_path / "halves" / "test" / name / "0.png")
    assert f"are the images in test/{name} good or defective?" in refused(tmp_path / "halves")
    with pytest.raises(LayoutError, match=f"row 3: is a part labelled '{name}' good"):
        listed(tmp_path, f"image,split,label\na/0.png,train,good\na/1.png,test,{name}\n")


@pytest.mark.parametrize("half", ["test", "val", "Validation"])
def test_a_half_beside_good_is_asked_about(tmp_path: Path, half: str) -> None:
    good_and_bad(tmp_path)
    photo(tmp_path / half / "0.png")
    assert f"which images of {half} are good?" in refused(tmp_path)


def test_an_unknown_name_in_both_halves_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "widget" / "0.png")
    photo(tmp_path / "test" / "widget" / "0.png")
    photo(tmp_path / "test" / "NG" / "0.png")
    assert "some in test/NG, test/widget, train/widget" in refused(tmp_path)


@pytest.mark.parametrize("name", ["NG", "Schrott", "bad_parts", "n.i.O.", "scratch", "not_ok", "Schlechtteile"])
def test_more_good_photos_are_not_taken_from_folders_of_defective_ones(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "more" / name / "0.png", bad=True)
    photo(tmp_path / "more" / "good" / "0.png")
    for folder in (tmp_path / "more", tmp_path / "more" / name):
        with pytest.raises(LayoutError, match="are these images good\\?"):
            refuse_doubtful_among_good(folder)
    refuse_doubtful_among_good(tmp_path / "more" / "good")


def test_more_good_photos_are_not_taken_from_among_masks_and_what_is_in_doubt(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / "more" / "cam 1" / f"{number}.png")
        photo(tmp_path / "more" / "cam 2" / f"{number}.png")
    refuse_doubtful_among_good(tmp_path / "more")
    for name, words in (("cam 1/0_bw.png", "1 look like masks"), ("gt/0.png", "1 look like masks")):
        mask(tmp_path / "more" / name)
        with pytest.raises(LayoutError, match=words):
            refuse_doubtful_among_good(tmp_path / "more")
        (tmp_path / "more" / name).unlink()
    photo(tmp_path / "more" / "unlabeled" / "0.png")
    with pytest.raises(LayoutError, match="are the images in unlabeled good"):
        refuse_doubtful_among_good(tmp_path / "more")


def test_masks_are_not_counted_as_defects_that_escape(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / "NG" / f"{number}.png", bad=True)
        mask(tmp_path / "NG" / f"{number}_bw.png")
    kept, left = defective_photos(sorted((tmp_path / "NG").iterdir()), [tmp_path / "NG"])
    assert ([path.name for path in kept], left) == (["0.png", "1.png", "2.png"], 3)


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", ".thumbnails", "Thumbs", "thumbnails"])
def test_folders_of_thumbnails_are_passed_over_with_a_note(tmp_path: Path, name: str) -> None:
    good_and_bad(tmp_path)
    before = read_layout(tmp_path).samples
    photo(tmp_path / name / "b0.png")
    photo(tmp_path / "bad" / name / "b0.png" / "SYNOPHOTO_THUMB_M.jpg")
    listing = read_layout(tmp_path)
    assert listing.samples == before
    assert any(name in note for note in listing.notes)
    found = gather([tmp_path])
    assert len(found.images) == 7
    assert any(name in line for line in found.sentences()) or name.startswith(".")


# --- strays --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stray", ["10301 (copy)", "10301 (1)", "10301 - Kopie", "overview"])
def test_strays_of_kolektor2_are_left_out_with_a_note(tmp_path: Path, stray: str) -> None:
    for split in ("train", "test"):
        for number in range(10300, 10303):
            photo(tmp_path / split / f"{number}.png")
            save(tmp_path / split / f"{number}_GT.png", np.zeros((32, 40), np.uint8))
    mask(tmp_path / "test" / "10300_GT.png")
    before = read_layout(tmp_path)
    photo(tmp_path / "train" / f"{stray}.png")
    if stray != "overview":
        mask(tmp_path / "train" / f"10301_GT{stray.removeprefix('10301')}.png")
    listing = read_layout(tmp_path)
    assert listing.samples == before.samples
    (note,) = (note for note in listing.notes if "no part of the layout" in note)
    assert stray.removeprefix("10301") in note


def test_strays_of_kolektor_are_left_out_with_a_note(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / "kos01" / f"Part{number}.jpg")
        save(tmp_path / "kos01" / f"Part{number}_label.bmp", np.zeros((32, 40), np.uint8))
    mask(tmp_path / "kos01" / "Part0_label.bmp")
    photo(tmp_path / "kos01" / "Part1 (copy).jpg")
    listing = read_layout(tmp_path)
    assert len(listing.samples) == 3
    assert "left out (kos01/Part1 (copy).jpg, …)" in " ".join(listing.notes)


# --- csv -----------------------------------------------------------------------------------------------------------


def listed(root: Path, text: str) -> Listing:
    for name in ("a/0.png", "a/1.png", "a/2.png"):
        photo(root / name)
    (root / "split.csv").write_text(text, encoding="utf-8")
    return read_layout(root)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("header", [("image", "split", "label"), ("Image", "SPLIT", " Label ")])
def test_a_csv_of_a_spreadsheet_is_read(tmp_path: Path, mark: str, header: tuple[str, ...]) -> None:
    rows = [header, ("a\\0.png", "Train", "OK"), ("a/1.png", "test", "i.O."), ("a/2.png", "TEST", "NG")]
    listing = listed(tmp_path, "\n".join(mark.join(row) for row in rows))
    found = [(sample.image, sample.split, sample.kind) for sample in listing.samples]
    assert found == [
        (tmp_path / "a/0.png", "train", "good"),
        (tmp_path / "a/1.png", "test", "good"),
        (tmp_path / "a/2.png", "test", "NG"),
    ]


@pytest.mark.parametrize(
    ("good", "bad"), [("0", "1"), ("Pass", "Fail"), ("OK", "NG"), ("Normal", "Anomaly"), ("GOOD", "Scratch")]
)
def test_known_words_are_good_and_others_kinds_of_defects(tmp_path: Path, good: str, bad: str) -> None:
    listing = listed(
        tmp_path, f"image,split,label\na/0.png,train,{good}\na/1.png,test,{bad}\na/2.png,test,{bad.lower()}\n"
    )
    assert [sample.kind for sample in listing.samples] == ["good", bad, bad]


@pytest.mark.parametrize("label", ["none", "True", "negative", "-1", "?", "n/a", "Unknown"])
def test_a_label_in_doubt_is_asked_about(tmp_path: Path, label: str) -> None:
    with pytest.raises(LayoutError, match=r"split\.csv row 2: is a part labelled '.*' good\? write good"):
        listed(tmp_path, f"image,split,label\na/0.png,train,{label}\n")


def test_classes_by_number_in_a_csv_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="the labels 0, 1, 2 are classes, and 0 may be a kind of defect"):
        listed(tmp_path, "image,split,label\na/0.png,train,0\na/1.png,test,1\na/2.png,test,2\n")


@pytest.mark.parametrize("second", ["./a/../a/0.png", "a\\0.png", "a//0.png"])
def test_an_image_listed_twice_in_other_spelling_is_refused(tmp_path: Path, second: str) -> None:
    with pytest.raises(LayoutError, match=r"row 3: .* is in row 2 already"):
        listed(tmp_path, f"image,split,label\na/0.png,train,good\n{second},test,good\n")


def test_a_mask_listed_for_a_good_part_marks_nothing_in_it(tmp_path: Path) -> None:
    mask(tmp_path / "a" / "0_mask.png")
    rows = "image,split,label,mask\na/0.png,test,good,a/0_mask.png\na/1.png,test,crack,a/0_mask.png\n"
    good, bad = listed(tmp_path, rows).samples
    assert (good.defective, good.mask) == (False, None)
    assert (bad.defective, bad.mask) == (True, tmp_path / "a" / "0_mask.png")


def dark(path: Path, seed: int, noise: float, scratch: bool, mean: float = 2.0) -> None:
    """A dark-field photo: nearly black, with a bright scratch where the part is defective."""
    pixels = np.random.default_rng(seed).normal(mean, noise, (128, 128))
    if scratch:
        for step in range(70):
            pixels[30 + step : 33 + step, 20 + step : 23 + step] = 220
    save(path, pixels.clip(0, 255).astype(np.uint8))


DARK = ["bad", "NG", "scratch", "defects", "bad/cam1", "NG/rust", "bad parts"]


@pytest.mark.parametrize("folder", DARK)
@pytest.mark.parametrize("name", ["{:03}", "{:03}_2", "{:03}_scratch", "b{:03}"])
@pytest.mark.parametrize(
    ("noise", "mean", "suffix"), [(0.3, 2, ".png"), (1, 2, ".png"), (2, 8, ".png"), (1, 3, ".jpg")]
)
def test_dark_field_photos_in_a_folder_of_defective_parts_are_photos(
    tmp_path: Path, folder: str, name: str, noise: float, mean: float, suffix: str
) -> None:
    for number in range(10):
        dark(tmp_path / "good" / f"{number:03}{suffix}", number, noise, False, mean)
    for number in range(5):
        dark(tmp_path / folder / f"{name.format(number)}{suffix}", 50 + number, noise, True, mean)
    listing = read_layout(tmp_path)
    assert (listing.layout, len(listing.train_good), len(masks_of(listing))) == ("folder", 8, 5)
    assert not any("left out" in note and "no part of the layout" in note for note in listing.notes)
    for number in range(5):
        dark(tmp_path / "masks" / f"{name.format(number)}.png", 50 + number, 0, True, 0)
    assert [len(masks) for masks in masks_of(read_layout(tmp_path)).values()] == [1] * 5


@pytest.mark.parametrize("kind", ["scratch", "rust", "label", "bad_label"])
@pytest.mark.parametrize("noise", [0.3, 1, 2])
def test_dark_field_photos_of_kinds_of_defects_beside_train_and_test_are_photos(
    tmp_path: Path, kind: str, noise: float
) -> None:
    for number in range(4):
        dark(tmp_path / "train" / "good" / f"{number:03}.png", number, noise, False)
        dark(tmp_path / "test" / "good" / f"{number:03}.png", 10 + number, noise, False)
        dark(tmp_path / "test" / kind / f"{number:03}.png", 50 + number, noise, True)
        dark(tmp_path / "ground_truth" / kind / f"{number:03}_mask.png", 50 + number, 0, True, 0)
    listing = read_layout(tmp_path)
    assert len(listing.train_good) == 4
    assert masks_of(listing) == {f"test/{kind}/{n:03}.png": [f"ground_truth/{kind}/{n:03}_mask.png"] for n in range(4)}


def test_good_photos_are_no_masks_of_defective_ones(tmp_path: Path) -> None:
    for number in range(5):
        dark(tmp_path / "good" / f"{number:03}.png", number, 0.3, True)  # a bright edge of the part, say
        dark(tmp_path / "bad" / f"{number:03}.png", number, 8, True, 120)
    listing = read_layout(tmp_path)
    assert (len(listing.train_good), masks_of(listing)) == (4, {f"bad/{n:03}.png": [] for n in range(5)})


def test_what_looks_like_masks_of_good_photos_alone_is_asked_about(tmp_path: Path) -> None:
    for number in range(5):
        dark(tmp_path / "good" / f"{number:03}.png", number, 8, False, 120)
        dark(tmp_path / "rust" / f"{number:03}.png", number, 0.3, True)
    assert "rust: are these masks, or photos of defective parts?" in refused(tmp_path)


@pytest.mark.parametrize("folder", ["defects", "bad/scratch"])
def test_drawings_of_two_colours_in_a_folder_of_defects_are_asked_about(tmp_path: Path, folder: str) -> None:
    good_and_bad(tmp_path, bad="NG")
    for number in range(2):
        mask(tmp_path / folder / f"b{number}.png")
    assert f"{folder}: are these photos of defective parts, or masks?" in refused(tmp_path)
    for number in range(2):
        (tmp_path / folder / f"b{number}.png").rename(tmp_path / folder / f"x{number}.png")
    assert len(masks_of(read_layout(tmp_path))) == 4


NAMED = [("OK_{}", "NG_{}"), ("g{}_ok", "d{}_ng"), ("good_{}", "defect_{}"), ("part{}_pass", "part{}_fail")]
NAMED += [("i.O._{}", "n.i.O._{}"), ("part{}_ok", "part{}_not_ok"), ("OK-{}", "nok-{}"), ("Gutteil {}", "kaputt {}")]
NAMED += [("no_defect_{}", "scratch_{}"), ("{} normal", "{} abnormal")]


@pytest.mark.parametrize(("good", "bad"), NAMED)
@pytest.mark.parametrize("below", ["", "parts"])
def test_photos_whose_names_all_say_good_or_defective_are_sorted_by_them(
    tmp_path: Path, good: str, bad: str, below: str
) -> None:
    root = tmp_path / "root"
    for number in range(5):
        photo(root / below / f"{good.format(number)}.png")
        photo(root / below / f"{bad.format(number)}.png", bad=True)
    listing = read_layout(root)
    place = f"{below}/" if below else ""
    assert masks_of(listing) == {f"{place}{bad.format(n)}.png": [] for n in range(5)}
    assert (listing.layout, len(listing.train_good)) == ("folder", 4)
    assert any("sorted by the words in the file names: 5 good" in note for note in listing.notes)
    assert len(read_defects(root).samples) == 5
    for number in range(5):
        mask(root / below / f"{bad.format(number)}_mask.png")
    assert [len(masks) for masks in masks_of(read_layout(root)).values()] == [1] * 5
    assert len(read_layout(root, "images").train_good) == 15


@pytest.mark.parametrize("good", ["IMG_{}", "part{}", "0_{}"])
def test_some_names_that_say_defective_are_asked_about(tmp_path: Path, good: str) -> None:
    for number in range(4):
        photo(tmp_path / "in" / f"{good.format(number)}.png")
        photo(tmp_path / "in" / f"NG_{number}.png", bad=True)
    words = refused(tmp_path / "in")
    assert "The names of 4 of 8 say that they are defective (NG_0.png, …); put good and defective ones" in words
    with pytest.raises(LayoutError, match="The names of 4 of 8 say that they are defective"):
        refuse_doubtful_among_good(tmp_path / "in")
    assert len(read_layout(tmp_path / "in", "images").train_good) == 8
    for number in range(4):
        (tmp_path / "in" / f"{good.format(number)}.png").unlink()
    assert "The names of 4 of 4 say that they are defective" in refused(tmp_path / "in")


def test_good_and_defective_names_among_defects_are_asked_about(tmp_path: Path) -> None:
    for name in ("OK_1", "NG_1", "x"):
        photo(tmp_path / "bad" / f"{name}.png")
    with pytest.raises(LayoutError, match=r"OK_1.png is named as of a good part, and others as defective"):
        read_defects(tmp_path / "bad")


@pytest.mark.parametrize("name", ["IMG_0", "kos01", "3f2ko", "0bad12", "good_1", "gong", "hexbad1", "part_NG_C1"])
def test_names_that_say_nothing_of_defects_are_learnt_from(tmp_path: Path, name: str) -> None:
    for number in range(3):
        photo(tmp_path / f"{name}{number}.png")
    assert len(read_layout(tmp_path).train_good) == 3


LANGUAGES = "kaputt Kratzer malo defectuosos défectueux mauvaises defeito difettosi wadliwe vadné fouten furyo"


@pytest.mark.parametrize("name", LANGUAGES.split())
def test_folders_of_defective_parts_are_known_in_more_languages(tmp_path: Path, name: str) -> None:
    for number in range(3):
        photo(tmp_path / name / f"{number}.png")
    assert f"All lie in {name}, a name for defective parts" in refused(tmp_path)
    assert f"All lie in {name}, a name for defective parts" in refused(tmp_path / name)
    assert is_bad(name) and not is_good(name)
