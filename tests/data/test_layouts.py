"""Every layout on a small tree of its own: recognised, counted, split, with its masks; and nothing left out unsaid."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from flawmap.data.images import read_mask, write_image
from flawmap.data.layouts import EXPECTED, LAYOUTS, Listing, find_images, read_layout, read_table
from flawmap.errors import DataError, ImageError, LayoutError

GREY = np.full((4, 6), 99, np.uint8)
BLACK = np.zeros((4, 6), np.uint8)
WHITE = np.full((4, 6), 255, np.uint8)


def put(root: Path, *names: str, pixels: np.ndarray = GREY) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / name, pixels)


def numbers(pattern: str, count: int) -> list[str]:
    return [pattern.format(number) for number in range(count)]


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def mvtec(root: Path) -> None:
    put(root, *numbers("train/good/{:03}.png", 3), *numbers("test/good/{:03}.png", 2))
    put(root, *numbers("test/crack/{:03}.png", 2), "test/hole/000.png")
    put(root, *numbers("ground_truth/crack/{:03}_mask.png", 2), "ground_truth/hole/000_mask.png", pixels=WHITE)


def loco(root: Path) -> None:
    put(root, *numbers("train/good/{:03}.png", 3), *numbers("validation/good/{:03}.png", 2), "test/good/000.png")
    put(root, "test/logical_anomalies/000.png", "test/structural_anomalies/000.png")
    put(root, "ground_truth/logical_anomalies/000/000.png", pixels=np.eye(4, 6, dtype=np.uint8))
    put(root, "ground_truth/logical_anomalies/000/001.png", pixels=np.eye(4, 6, 1, dtype=np.uint8))
    put(root, "ground_truth/structural_anomalies/000/000.png", pixels=WHITE)


def ad2(root: Path) -> None:
    put(root, *numbers("train/good/{:03}_regular.png", 3), "validation/good/000_regular.png")
    put(root, "test_public/good/000_regular.png", *numbers("test_public/bad/{:03}_shift.png", 2))
    put(root, *numbers("test_public/ground_truth/bad/{:03}_shift_mask.png", 2), pixels=WHITE)
    put(root, *numbers("test_private/{:03}.png", 2), "test_private_mixed/000_mixed.png")


def kolektor(root: Path) -> None:
    for item in range(3):
        put(root, *numbers(f"kos{item:02}/Part{{}}.jpg", 4))
        put(root, *numbers(f"kos{item:02}/Part{{}}_label.bmp", 4), pixels=BLACK)
    put(root, "kos01/Part2_label.bmp", "kos02/Part0_label.bmp", pixels=WHITE)


def kolektor2(root: Path) -> None:
    put(root, *numbers("train/{}.png", 3), *numbers("test/{}.png", 2))
    put(root, *numbers("train/{}_GT.png", 3), *numbers("test/{}_GT.png", 2), pixels=BLACK)
    put(root, "train/1_GT.png", "test/0_GT.png", pixels=WHITE)


def visa(root: Path) -> None:
    put(root, *numbers("Data/Images/Normal/{:04}.JPG", 6), *numbers("Data/Images/Anomaly/{:03}.JPG", 2))
    put(root, *numbers("Data/Masks/Anomaly/{:03}.png", 2), pixels=WHITE)


def btad(root: Path) -> None:
    put(root, *numbers("train/ok/{:04}.bmp", 3), *numbers("test/ok/{:04}.bmp", 2), *numbers("test/ko/{:04}.bmp", 2))
    put(root, *numbers("ground_truth/ko/{:04}.png", 2), pixels=WHITE)


def dagm(root: Path) -> None:
    put(root, *numbers("Train/{:04}.PNG", 3), *numbers("Test/{:04}.PNG", 4))
    put(root, "Train/Label/0002_label.PNG", "Test/Label/0001_label.PNG", "Test/Label/0003_label.PNG", pixels=WHITE)
    write(root / "Train" / "Label" / "Labels.txt", "1")


def magnetic_tile(root: Path) -> None:
    put(root, *numbers("MT_Free/Imgs/exp1_{}.jpg", 6), *numbers("MT_Crack/Imgs/exp2_{}.jpg", 2), "MT_Fray/Imgs/e_0.jpg")
    put(root, *numbers("MT_Free/Imgs/exp1_{}.png", 6), pixels=BLACK)
    put(root, *numbers("MT_Crack/Imgs/exp2_{}.png", 2), "MT_Fray/Imgs/e_0.png", pixels=WHITE)


def folder(root: Path) -> None:
    put(root, *numbers("good/{}.jpg", 6), *numbers("bad/scratch/{}.jpg", 2), "bad/7.png", "bad/8.png")
    put(root, "masks/bad/scratch/0.png", "masks/1.png", "bad/7_mask.png", "masks/8_mask.png", pixels=WHITE)


def only_images(root: Path) -> None:
    put(root, *numbers("{}.png", 3), "deeper/ü 4.webp")


def table(root: Path) -> None:
    mvtec(root)  # a csv wins over what else the folder looks like
    write(
        root / "split.csv",
        "image,split,label,mask",
        "train/good/000.png,train,good,",
        "train/good/001.png,train,OK,",
        "test/good/000.png,test,normal,",
        "test/crack/000.png,test,crack,ground_truth/crack/000_mask.png",
        "test/crack/001.png,train,crack,",
        "test/hole/000.png,test,,",
    )


# layout: the tree; good images to learn from; good, defective and unlabelled ones to test on; kinds with masks among
# the test images; whether all images are accounted for
CASES: dict[str, tuple[Callable[[Path], None], int, tuple[int, int, int], dict[str, int], bool]] = {
    "mvtec": (mvtec, 3, (2, 3, 0), {"crack": 2, "hole": 1}, True),
    "mvtec-loco": (loco, 5, (1, 2, 0), {"logical_anomalies": 1, "structural_anomalies": 1}, True),
    "mvtec-ad2": (ad2, 4, (1, 2, 3), {"bad": 2}, True),
    "kolektor": (kolektor, 8, (2, 2, 0), {"defect": 2}, True),
    "kolektor2": (kolektor2, 2, (1, 1, 0), {"defect": 1}, True),
    "visa": (visa, 5, (1, 2, 0), {"anomaly": 2}, True),
    "btad": (btad, 3, (2, 2, 0), {"ko": 2}, True),
    "dagm": (dagm, 2, (2, 2, 0), {"defect": 2}, True),
    "mpdd": (mvtec, 3, (2, 3, 0), {"crack": 2, "hole": 1}, True),
    "magnetic-tile": (magnetic_tile, 5, (1, 3, 0), {"crack": 2, "fray": 1}, True),
    "folder": (folder, 5, (1, 4, 0), {"scratch": 2, "bad": 2}, True),
    "images": (only_images, 4, (0, 0, 0), {}, True),
    "csv": (table, 2, (1, 1, 1), {"crack": 1}, False),
}
OWN_SPLIT_MISSING = {"kolektor", "visa", "magnetic-tile", "folder"}


def said(listing: Listing, words: str) -> str:
    """The one note that holds `words`."""
    (note,) = [note for note in listing.notes if words in note]
    return note


def silent(listing: Listing, words: str) -> bool:
    return not any(words in note for note in listing.notes)


def refused(root: Path, **options: str) -> str:
    with pytest.raises(LayoutError) as caught:
        read_layout(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def splits(listing: Listing) -> dict[str, str]:
    return {sample.image.relative_to(listing.root).as_posix(): sample.split for sample in listing.samples}


def test_every_layout_has_its_case() -> None:
    assert set(CASES) == set(LAYOUTS)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_said_with_its_counts_splits_kinds_and_masks(
    tmp_path: Path, name: str, forced: bool
) -> None:
    build, learn, (good, bad, unknown), masked, complete = CASES[name]
    root = tmp_path / "any part"
    build(root)
    listing = read_layout(root, name if forced else "auto")
    recognised = "mvtec" if name == "mpdd" and not forced else name
    assert listing.layout == recognised and listing.root == root and listing.name == "any part"
    verb = "read as asked" if forced else "recognised"
    counts = f"{learn} good images to learn from, {good} good and {bad} defective to test on"
    assert listing.notes[0] == f"layout {recognised} {verb}: {counts}"
    assert len(listing.train_good) == learn
    assert Counter(sample.defective for sample in listing.test) == Counter({False: good, True: bad, None: unknown})
    assert Counter(sample.kind for sample in listing.test if sample.mask) == masked
    assert len({sample.image for sample in listing.samples}) == len(listing.samples)
    for sample in listing.samples:
        assert sample.image.is_file()
        assert (sample.kind == "good") == (sample.defective is False)
        assert sample.mask is None or (sample.defective and read_mask(sample.mask, (4, 6)).any())
    assert silent(listing, "images are no part of the layout") == complete
    assert silent(listing, "no split of its own") == (name not in OWN_SPLIT_MISSING)
    assert all("\n" not in note for note in listing.notes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_reading_twice_gives_the_same_listing(tmp_path: Path, name: str) -> None:
    CASES[name][0](tmp_path)
    assert read_layout(tmp_path) == read_layout(str(tmp_path))


def test_layouts_without_a_split_keep_every_fifth_good_image_in_order_of_name(tmp_path: Path) -> None:
    put(tmp_path, *numbers("good/{:02}.png", 11), "bad/0.png")
    listing = read_layout(tmp_path)
    assert [name for name, split in splits(listing).items() if split == "test"] == [
        "good/04.png",
        "good/09.png",
        "bad/0.png",
    ]
    assert "every fifth good image, in order of name, is for testing" in said(listing, "no split of its own")


def test_a_plain_folder_of_good_images_alone_is_all_learned_from(tmp_path: Path) -> None:
    put(tmp_path, *numbers("OK/{}.png", 7))
    listing = read_layout(tmp_path)
    assert (listing.layout, len(listing.train_good), listing.test) == ("folder", 7, ())


def test_kinds_and_masks_of_a_plain_folder(tmp_path: Path) -> None:
    folder(tmp_path)
    found = {sample.image.relative_to(tmp_path).as_posix(): sample for sample in read_layout(tmp_path).samples}
    masks = {name: sample.mask.relative_to(tmp_path).as_posix() for name, sample in found.items() if sample.mask}
    assert masks == {
        "bad/scratch/0.jpg": "masks/bad/scratch/0.png",
        "bad/scratch/1.jpg": "masks/1.png",
        "bad/7.png": "bad/7_mask.png",
        "bad/8.png": "masks/8_mask.png",
    }
    assert found["bad/scratch/0.jpg"].kind == "scratch" and found["bad/7.png"].kind == "bad"


def test_folders_beside_good_are_kinds_of_defects(tmp_path: Path) -> None:
    put(tmp_path, *numbers("good/{}.png", 5), "dent/0.png", "crack/0.png")
    assert {sample.kind for sample in read_layout(tmp_path).test} == {"good", "dent", "crack"}


def test_several_masks_of_one_image_count_together(tmp_path: Path) -> None:
    loco(tmp_path)
    (sample,) = [sample for sample in read_layout(tmp_path).test if sample.kind == "logical_anomalies"]
    assert sample.mask is not None
    assert np.array_equal(read_mask(sample.mask, (4, 6)), (np.eye(4, 6) + np.eye(4, 6, 1)) > 0)


def test_validation_images_are_learned_from_and_not_tested_on(tmp_path: Path) -> None:
    for build, name in ((loco, "mvtec-loco"), (ad2, "mvtec-ad2")):
        build(tmp_path / name)
        used = splits(read_layout(tmp_path / name))
        assert {split for path, split in used.items() if path.startswith("validation")} == {"train"}


def test_images_without_a_label_are_said(tmp_path: Path) -> None:
    ad2(tmp_path)
    note = said(read_layout(tmp_path), "no label")
    assert note == "3 images have no label (000.png, …): they are neither learned from nor measured on"


def test_defective_training_images_are_said_and_not_learned_from(tmp_path: Path) -> None:
    for build, name, image in ((dagm, "d", "0002.PNG"), (kolektor2, "k", "1.png"), (table, "t", "001.png")):
        build(tmp_path / name)
        listing = read_layout(tmp_path / name)
        assert said(listing, "are not learned from") == f"1 defective training images ({image}, …) are not learned from"
        assert image not in {sample.image.name for sample in listing.train_good if sample.defective}


@pytest.mark.parametrize(
    ("build", "mask"),
    [
        (mvtec, "ground_truth/hole/000_mask.png"),
        (ad2, "test_public/ground_truth/bad/000_shift_mask.png"),
        (visa, "Data/Masks/Anomaly/000.png"),
        (btad, "ground_truth/ko/0001.png"),
        (magnetic_tile, "MT_Crack/Imgs/exp2_0.png"),
        (folder, "bad/7_mask.png"),
    ],
)
def test_a_defective_test_image_without_a_mask_is_kept_and_said(
    tmp_path: Path, build: Callable[[Path], None], mask: str
) -> None:
    build(tmp_path)
    whole = read_layout(tmp_path)
    assert silent(whole, "no mask")
    (tmp_path / mask).unlink()
    listing = read_layout(tmp_path)
    assert len(listing.samples) == len(whole.samples)
    note = said(listing, "no mask")
    assert note.startswith("1 defective test images have no mask (")
    assert note.endswith("they count for detection and are left out of localization")


def test_what_is_no_part_of_a_layout_is_counted_and_one_of_it_named(tmp_path: Path) -> None:
    mvtec(tmp_path)
    put(tmp_path, "extra/b.png", "extra/c.png")
    write(tmp_path / "license.txt", "words")
    put(tmp_path, ".hidden/x.png", ".y.png")
    listing = read_layout(tmp_path)
    assert said(listing, "no part of") == "2 images are no part of the layout and left out (extra/b.png, …)"
    assert said(listing, "not images") == "1 files are not images and left out (license.txt, …)"


def test_dagms_list_of_labels_is_said_to_be_left_out(tmp_path: Path) -> None:
    dagm(tmp_path)
    assert "Labels.txt" in said(read_layout(tmp_path), "not images")


def test_a_missing_label_of_either_kolektor_set_is_named(tmp_path: Path) -> None:
    kolektor(tmp_path / "one")
    (tmp_path / "one" / "kos01" / "Part3_label.bmp").unlink()
    assert "Part3.jpg: its mask Part3_label.bmp is missing" in refused(tmp_path / "one")
    kolektor2(tmp_path / "two")
    (tmp_path / "two" / "test" / "1_GT.png").unlink()
    assert "1.png: its mask 1_GT.png is missing" in refused(tmp_path / "two")


def test_a_broken_label_that_must_be_read_is_named(tmp_path: Path) -> None:
    kolektor(tmp_path)
    (tmp_path / "kos00" / "Part0_label.bmp").write_bytes(b"")
    with pytest.raises(ImageError, match=r"Part0_label\.bmp: the file is empty"):
        read_layout(tmp_path)


# --- VisA's table --------------------------------------------------------------------------------------------------

VISA_ROWS = [
    "object,split,label,image,mask",
    "capsules,train,normal,capsules/Data/Images/Normal/0000.JPG,",
    *[f"candle,train,normal,candle/Data/Images/Normal/{number:04}.JPG," for number in (0, 2, 4)],
    *[f"candle,test,normal,candle/Data/Images/Normal/{number:04}.JPG," for number in (1, 3)],
    *[
        f"candle,test,anomaly,candle/Data/Images/Anomaly/{n:03}.JPG,candle/Data/Masks/Anomaly/{n:03}.png"
        for n in (0, 1)
    ],
]


@pytest.mark.parametrize("place", ["split_csv/1cls.csv", "candle/1cls.csv", "candle/split_csv/1cls.csv"])
def test_visas_own_split_is_used_where_it_is(tmp_path: Path, place: str) -> None:
    visa(tmp_path / "candle")
    write(tmp_path / place, *VISA_ROWS)
    for listing in (read_layout(tmp_path, category="candle"), read_layout(tmp_path / "candle", "visa")):
        names = {sample.image.name: sample.split for sample in listing.samples if not sample.defective}
        assert names == {
            "0000.JPG": "train",
            "0002.JPG": "train",
            "0004.JPG": "train",
            "0001.JPG": "test",
            "0003.JPG": "test",
        }
        assert silent(listing, "no split of its own")
        assert said(listing, "no part of") == (
            "1 images are no part of the layout and left out (Data/Images/Normal/0005.JPG, …)"
        )
        assert silent(listing, "not images")


def test_visas_split_is_found_from_inside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visa(tmp_path / "candle")
    write(tmp_path / "split_csv" / "1cls.csv", *VISA_ROWS)
    monkeypatch.chdir(tmp_path / "candle")
    listing = read_layout(".")
    assert (listing.name, len(listing.train_good), len(listing.test)) == ("candle", 3, 4)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            "candle,train,normal,candle/Data/Images/Normal/9999.JPG,",
            "row 10: candle/Data/Images/Normal/9999.JPG is not there",
        ),
        ("candle,val,normal,candle/Data/Images/Normal/0005.JPG,", "row 10: split 'val'; expected train or test"),
        ("candle,train", "row 10 has too few columns"),
    ],
)
def test_a_wrong_row_of_visas_table_is_named(tmp_path: Path, row: str, words: str) -> None:
    visa(tmp_path / "candle")
    write(tmp_path / "split_csv" / "1cls.csv", *VISA_ROWS, row)
    assert words in refused(tmp_path / "candle")


def test_visas_table_without_the_object_is_said(tmp_path: Path) -> None:
    visa(tmp_path / "my candle")
    write(tmp_path / "split_csv" / "1cls.csv", *VISA_ROWS)
    assert "has no rows of the object my candle" in refused(tmp_path / "my candle")


# --- categories and what is not understood -------------------------------------------------------------------------


@pytest.mark.parametrize("build", [mvtec, loco, ad2, visa, btad, dagm, folder])
def test_a_set_of_several_objects_lists_them_until_one_is_chosen(tmp_path: Path, build: Callable[[Path], None]) -> None:
    for name in ("bottle", "cable"):
        build(tmp_path / name)
    words = f"{tmp_path} holds several categories; choose one with --category: bottle, cable"
    assert refused(tmp_path) == words
    assert refused(tmp_path, layout="mpdd") == words
    chosen = read_layout(tmp_path, category="cable")
    assert chosen.name == "cable" and chosen.samples == read_layout(tmp_path / "cable").samples
    assert refused(tmp_path, category="screw") == f"{tmp_path}: no category screw; there are: bottle, cable"


def test_a_layout_that_the_folder_does_not_have_cannot_be_forced(tmp_path: Path) -> None:
    only_images(tmp_path)
    for name in set(LAYOUTS) - {"images"}:
        assert refused(tmp_path, layout=name).startswith(f"{tmp_path} is not laid out as {name}; try --layout auto")


def test_images_can_be_forced_on_any_folder(tmp_path: Path) -> None:
    mvtec(tmp_path)
    assert len(read_layout(tmp_path, "images").train_good) == 11


def test_an_unknown_layout_lists_those_there_are(tmp_path: Path) -> None:
    assert refused(tmp_path, layout="imagenet") == f"no layout imagenet; there are: auto, {', '.join(LAYOUTS)}"


def test_a_missing_folder_a_file_and_a_folder_without_images_are_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone") == f"{tmp_path / 'gone'}: there is no such folder"
    write(tmp_path / "in" / "notes.txt", "words")
    assert refused(tmp_path / "in" / "notes.txt") == (
        f"{tmp_path / 'in' / 'notes.txt'} is a file, not a folder of photos; "
        "give a folder of photos, or a csv that lists them"
    )
    assert refused(tmp_path / "in") == (
        f"no images in {tmp_path / 'in'}; expected {EXPECTED} (1 files are not images and left out (notes.txt, …))"
    )


def test_a_folder_that_may_not_be_listed_is_named_and_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mvtec(tmp_path)
    shut, scandir = tmp_path / "test" / "hole", os.scandir

    def guarded(path: str | Path) -> Iterable[os.DirEntry[str]]:
        if Path(path) == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert refused(tmp_path) == f"{shut}: the folder cannot be read; change its permissions"
    with pytest.raises(LayoutError, match="the folder cannot be read; change its permissions"):
        find_images([tmp_path])


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", guarded)
    assert refused(tmp_path) == f"{tmp_path}: no permission to read it; change its permissions"


def test_a_link_back_to_its_own_folder_is_followed_once(tmp_path: Path) -> None:
    only_images(tmp_path)
    (tmp_path / "deeper" / "back").symlink_to(tmp_path)
    assert len(read_layout(tmp_path).samples) == 4
    assert len(find_images([tmp_path])) == 4


# --- csv -----------------------------------------------------------------------------------------------------------


def test_labels_and_masks_of_a_csv(tmp_path: Path) -> None:
    table(tmp_path)
    found = [(sample.split, sample.defective, sample.kind) for sample in read_layout(tmp_path).samples]
    assert found == [
        ("train", False, "good"),
        ("train", False, "good"),
        ("test", False, "good"),
        ("test", True, "crack"),
        ("train", True, "crack"),
        ("test", None, "unlabelled"),
    ]
    assert read_layout(tmp_path).samples[3].mask == tmp_path / "ground_truth" / "crack" / "000_mask.png"


def test_a_csv_of_any_name_is_given_in_place_of_the_folder(tmp_path: Path) -> None:
    table(tmp_path)
    (tmp_path / "split.csv").rename(tmp_path / "mein Schnitt.CSV")
    listing = read_layout(tmp_path / "mein Schnitt.CSV")
    assert (listing.layout, listing.root) == ("csv", tmp_path)
    assert listing.notes[0] == "mein Schnitt.CSV: read as a csv of 6 images"
    assert list(listing.samples) == read_table(tmp_path / "mein Schnitt.CSV")


def test_a_csv_as_spreadsheets_save_it_is_read(tmp_path: Path) -> None:
    put(tmp_path, "größe 1.png")
    (tmp_path / "split.csv").write_bytes('\ufeffimage,split,label\r\n"größe 1.png",train,good\r\n'.encode())
    assert [sample.image.name for sample in read_layout(tmp_path).train_good] == ["größe 1.png"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["image,split,label,mask", "a.png,train,good,", "b.png,train,good,"], "row 3: there is no file"),
        (["image,split,label,mask", "", "a.png,train,good,", "", "b.png,train,good,"], "row 5: there is no file"),
        (["image,split,label,mask", "a.png,test,crack,a_mask.png"], "row 2: there is no file"),
        (["image,split,label,mask", ",test,crack,"], "row 2: there is no file"),
        (["image,split,label", "a.png,validation,good"], "row 2: split 'validation'; expected train or test"),
        (["image,split,label", "a.png,train"], "row 2 has too few columns; expected image,split,label"),
        (["image,label", "a.png,good"], "has no column split; expected image,split,label"),
        (["a.png;train;good"], "has no column image, split, label"),
        (["image,split,label,mask"], "lists no images; add a row for each"),
        ([""], "has no column image, split, label"),
    ],
)
def test_a_wrong_csv_names_its_file_and_row(tmp_path: Path, lines: list[str], words: str) -> None:
    put(tmp_path, "a.png")
    write(tmp_path / "split.csv", *lines)
    message = refused(tmp_path)
    assert message.startswith(str(tmp_path / "split.csv")) and words in message
    assert refused(tmp_path / "split.csv") == message


@pytest.mark.parametrize(("name", "told"), [("x" * 300 + ".png", "too long"), ("a\0.png", "null byte")])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_what_cannot_be_a_file_in_a_csv_is_one_line(column: str, name: str, told: str, tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    row = f"a.png,test,bad,{name}" if column == "mask" else f"{name},test,bad,"
    (tmp_path / "split.csv").write_text(f"image,split,label,mask\n{row}\n")
    message = refused(tmp_path)
    assert "cannot be a file here" in message and told in message and len(message) < 400


def test_a_csv_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_bytes("image,split,label\ngröße.png,train,good\n".encode("latin-1"))
    assert "split.csv cannot be read as a UTF-8 csv" in refused(tmp_path)


# --- files and folders to inspect ----------------------------------------------------------------------------------


def test_files_and_folders_give_their_images_in_order_and_once(tmp_path: Path) -> None:
    put(tmp_path, "b/2.png", "b/1.JPG", "b/c/3.tif", "a.webp", "b/.hidden.png")
    write(tmp_path / "b" / "notes.txt", "words")
    (tmp_path / "odd name").write_bytes(b"")
    found = find_images([tmp_path / "b", str(tmp_path / "a.webp"), tmp_path / "b" / "2.png", tmp_path / "odd name"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "b/1.JPG",
        "b/2.png",
        "b/c/3.tif",
        "a.webp",
        "odd name",
    ]


def test_what_gives_no_images_is_named_even_beside_what_does(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png")
    (tmp_path / "empty").mkdir()
    for paths, words in (
        ([tmp_path / "a", tmp_path / "gone.png"], f"{tmp_path / 'gone.png'}: there is no such file or folder"),
        ([tmp_path / "a", tmp_path / "empty"], f"no images in {tmp_path / 'empty'}; expected .bmp"),
        ([], "no images given; name files or folders"),
    ):
        with pytest.raises(DataError) as caught:
            find_images(paths)
        assert str(caught.value).startswith(words)


# --- what one would not think of -----------------------------------------------------------------------------------


def test_hidden_files_and_folders_are_counted_and_one_named(tmp_path: Path) -> None:
    mvtec(tmp_path)
    (tmp_path / "._000.png").write_bytes(b"Mac OS X")
    put(tmp_path, ".thumbnails/000.png")
    assert "2 hidden files or folders are left out (._000.png, …)" in read_layout(tmp_path).notes


def test_folders_of_unknown_names_are_not_learned_from_unasked(tmp_path: Path) -> None:
    put(tmp_path, "first/0.png", "scratched/0.png")
    words = refused(tmp_path)
    assert "first, scratched" in words and "--layout images" in words
    assert len(read_layout(tmp_path, "images").train_good) == 2


def test_masks_beside_plain_images_are_not_learned_from(tmp_path: Path) -> None:
    put(tmp_path, "0.png", "masks/0.png")
    assert "masks" in refused(tmp_path)


def test_either_half_of_mvtecs_layout_is_enough(tmp_path: Path) -> None:
    put(tmp_path / "learn", *numbers("train/good/{}.png", 3))
    put(tmp_path / "measure", "test/good/0.png", "test/crack/0.png")
    learn, measure = read_layout(tmp_path / "learn"), read_layout(tmp_path / "measure")
    assert (learn.layout, len(learn.train_good), len(learn.test)) == ("mvtec", 3, 0)
    assert (measure.layout, len(measure.train_good), len(measure.test)) == ("mvtec", 0, 2)


def test_mpdd_is_told_by_the_names_of_its_objects(tmp_path: Path) -> None:
    mvtec(tmp_path / "bracket_black")
    assert read_layout(tmp_path / "bracket_black").layout == "mpdd"
    assert read_layout(tmp_path / "bracket_black", "mvtec").layout == "mvtec"


def test_a_folder_of_another_name_with_the_prefix_of_magnetic_tile_is_not_one(tmp_path: Path) -> None:
    put(tmp_path, *numbers("MT_Steel/{}.png", 3))
    assert read_layout(tmp_path).layout == "images"


def test_one_mask_is_not_lent_to_two_images(tmp_path: Path) -> None:
    put(tmp_path, "good/0.png", "dent/0.png", "scratch/0.png", "masks/0.png")
    words = refused(tmp_path)
    assert all(part in words for part in ("masks/0.png", "dent/0.png", "scratch/0.png"))


def test_an_image_twice_in_a_csv_is_refused_as_it_could_be_learned_from_and_tested_on(tmp_path: Path) -> None:
    put(tmp_path, "0.png")
    write(tmp_path / "split.csv", "image,split,label", "0.png,train,good", "0.png,test,good")
    assert refused(tmp_path).endswith("split.csv row 3: 0.png is in row 2 already; keep one of them")


def test_blanks_and_capitals_in_a_csv_do_not_matter(tmp_path: Path) -> None:
    put(tmp_path, "0.png")
    write(tmp_path / "split.csv", "image,split,label", " 0.png , Train , GOOD ")
    assert len(read_layout(tmp_path).train_good) == 1


def test_a_csv_given_outright_is_not_read_as_another_layout(tmp_path: Path) -> None:
    put(tmp_path, "0.png")
    write(tmp_path / "mine.csv", "image,split,label", "0.png,train,good")
    assert "cannot be read as mvtec" in refused(tmp_path / "mine.csv", layout="mvtec")


def test_links_between_two_folders_end(tmp_path: Path) -> None:
    put(tmp_path, "a/0.png", "b/1.png")
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    assert len(find_images([tmp_path])) == 4
