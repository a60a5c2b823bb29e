"""Masks as tools write them: what is marked, and what is said of masks that are not two plain levels."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from flawmap.data.drawn import looks_like_mask
from flawmap.data.masks import MaskReader, at_cells, read_mask, read_with_facts
from flawmap.errors import ImageError

SHAPE = (60, 80)
TRUTH = np.zeros(SHAPE, bool)
TRUTH[10:30, 20:50] = True
WHITE = TRUTH * np.uint8(255)


def palette(indices: np.ndarray, *colours: tuple[int, int, int]) -> Pillow.Image:
    image = Pillow.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([part for colour in colours for part in colour])
    return image


def with_alpha(colour: int, mode: str = "RGBA") -> Pillow.Image:
    bands = 4 if mode == "RGBA" else 2
    pixels = np.full((*SHAPE, bands), colour, np.uint8)
    pixels[..., -1] = WHITE
    return Pillow.fromarray(pixels, mode)


def by_way_of_jpeg(quality: int) -> Pillow.Image:
    kept = io.BytesIO()
    Pillow.fromarray(WHITE).save(kept, "JPEG", quality=quality)
    return Pillow.fromarray(np.asarray(Pillow.open(io.BytesIO(kept.getvalue()))))


def red_on_white() -> Pillow.Image:
    pixels = np.full((*SHAPE, 3), 255, np.uint8)
    pixels[TRUTH] = (255, 0, 0)
    return Pillow.fromarray(pixels)


def transparent_black() -> Pillow.Image:
    pixels = np.zeros((*SHAPE, 4), np.uint8)
    pixels[TRUTH] = 255
    return Pillow.fromarray(pixels)


def transparent_white() -> Pillow.Image:
    """White where it is transparent, as some editors keep it, and red strokes."""
    pixels = np.full((*SHAPE, 4), 255, np.uint8)
    pixels[TRUTH] = (200, 0, 0, 255)
    pixels[~TRUTH, 3] = 0
    return Pillow.fromarray(pixels)


PLAIN: dict[str, tuple[Callable[[], Pillow.Image], str]] = {
    "0 and 255": (lambda: Pillow.fromarray(WHITE), ".png"),
    "0 and 1": (lambda: Pillow.fromarray(TRUTH.astype(np.uint8)), ".png"),
    "0 and 1 in a bitmap": (lambda: Pillow.fromarray(TRUTH.astype(np.uint8)), ".bmp"),
    "0 and 1 in 16 bits": (lambda: Pillow.fromarray(TRUTH.astype(np.uint16)), ".png"),
    "0 and 65535": (lambda: Pillow.fromarray(TRUTH * np.uint16(65535)), ".tif"),
    "0 and 65535 in a PNG": (lambda: Pillow.fromarray(TRUTH * np.uint16(65535)), ".png"),
    "0 and 255 in 32 bits": (lambda: Pillow.fromarray(TRUTH * np.int32(255)), ".tif"),
    "float": (lambda: Pillow.fromarray(TRUTH.astype(np.float32)), ".tif"),
    "bits": (lambda: Pillow.fromarray(TRUTH), ".png"),
    "bits in a TIFF": (lambda: Pillow.fromarray(TRUTH), ".tif"),
    "palette of VOC": (lambda: palette(TRUTH, (0, 0, 0), (128, 0, 0)), ".png"),
    "palette of black alone": (lambda: palette(TRUTH, *[(0, 0, 0)] * 3), ".png"),
    "palette on grey": (lambda: palette(TRUTH, (200, 200, 200), (255, 0, 0)), ".png"),
    "red on black": (lambda: Pillow.fromarray(WHITE[..., None] * np.array([1, 0, 0], np.uint8)), ".png"),
    "strokes on transparent white": (transparent_white, ".png"),
    "white on transparent black": (transparent_black, ".png"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_not_the_background_is_marked(tmp_path: Path, name: str) -> None:
    draw, suffix = PLAIN[name]
    draw().save(tmp_path / f"mask{suffix}")
    found, (facts,) = read_with_facts(tmp_path / f"mask{suffix}", SHAPE)
    assert np.array_equal(found, TRUTH)
    assert facts.kind == "two" and not (facts.open or facts.alpha or facts.dim)


def test_a_mask_in_a_faxs_compression_is_read(tmp_path: Path) -> None:
    Pillow.fromarray(TRUTH).save(tmp_path / "mask.tif", compression="group4")
    assert np.array_equal(read_mask(tmp_path / "mask.tif", SHAPE), TRUTH)


@pytest.mark.parametrize(("colour", "mode"), [(255, "RGBA"), (0, "RGBA"), (255, "LA"), (0, "LA")])
def test_a_shape_in_the_alpha_channel_alone_is_the_mask(tmp_path: Path, colour: int, mode: str) -> None:
    with_alpha(colour, mode).save(tmp_path / "mask.png")
    found, (facts,) = read_with_facts(tmp_path / "mask.png", SHAPE)
    assert np.array_equal(found, TRUTH) and facts.alpha


@pytest.mark.parametrize(
    "draw",
    [
        lambda: palette(TRUTH, (255, 255, 255), (0, 0, 0)),
        lambda: palette(~TRUTH, (255, 255, 255), (0, 0, 0)),
        red_on_white,
        lambda: Pillow.fromarray(np.where(TRUTH, np.uint8(2), np.uint8(1))),
    ],
    ids=["white is 0", "black is 1 and the background", "red on white", "classes from 1 on"],
)
def test_where_the_background_is_open_the_commonest_colour_is_it(
    tmp_path: Path, draw: Callable[[], Pillow.Image]
) -> None:
    draw().save(tmp_path / "mask.png")
    found, (facts,) = read_with_facts(tmp_path / "mask.png", SHAPE)
    assert np.array_equal(found, TRUTH) and facts.open


@pytest.mark.parametrize("truth", [TRUTH, ~TRUTH], ids=["ink is the defect", "paper is the defect"])
def test_a_tiff_counted_from_white_marks_the_smaller_part(tmp_path: Path, truth: np.ndarray) -> None:
    Pillow.fromarray(~truth).save(tmp_path / "mask.tif", tiffinfo={262: 0})
    assert np.array_equal(read_mask(tmp_path / "mask.tif", SHAPE), TRUTH)


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_of_a_mask_by_way_of_jpeg_half_of_full_scale_counts(tmp_path: Path, quality: int, suffix: str) -> None:
    by_way_of_jpeg(quality).save(tmp_path / f"mask{suffix}")
    found, (facts,) = read_with_facts(tmp_path / f"mask{suffix}", SHAPE)
    assert np.array_equal(found, TRUTH) and facts.kind == "grey"


def test_soft_edges_count_from_half_of_full_scale(tmp_path: Path) -> None:
    half = Pillow.fromarray(WHITE).resize((40, 30), Pillow.Resampling.BOX)
    blurred = ndimage.gaussian_filter(WHITE, 1.5)
    for name, pixels in (
        ("blurred", blurred),
        ("enlarged", np.asarray(half.resize((80, 60), Pillow.Resampling.BICUBIC))),
        ("16 bits", blurred.astype(np.uint16) * 257),
    ):
        Pillow.fromarray(pixels).save(tmp_path / "mask.png")
        full = np.iinfo(pixels.dtype).max
        assert np.array_equal(read_mask(tmp_path / "mask.png", SHAPE), pixels > full / 2), name
    slanted = Pillow.new("L", (320, 240))
    ImageDraw.Draw(slanted).line((20, 30, 290, 200), 255, 9)
    quarter = np.asarray(slanted.resize((160, 120), Pillow.Resampling.BOX))  # five levels in equal steps
    assert len(np.unique(quarter)) == 5
    Pillow.fromarray(quarter).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", (120, 160)), quarter > 127)


def test_dark_levels_of_grey_count_from_half_of_their_brightest(tmp_path: Path) -> None:
    Pillow.fromarray(TRUTH * np.uint8(100)).save(tmp_path / "mask.jpg", quality=95)
    found, (facts,) = read_with_facts(tmp_path / "mask.jpg", SHAPE)
    assert np.array_equal(found, TRUTH) and facts.dim


@pytest.mark.parametrize("levels", [(1, 2, 3), (1, 255), (85, 170, 255), (60, 120, 180, 240), (249, 252, 255)])
def test_every_class_counts(tmp_path: Path, levels: tuple[int, ...]) -> None:
    pixels = np.zeros(SHAPE, np.uint8)
    for number, level in enumerate(levels):
        pixels[5:50, 10 * number + 2 : 10 * number + 9] = level
    pixels[55:57, 3:60] = levels[0]  # a thin one
    Pillow.fromarray(pixels).save(tmp_path / "mask.png")
    found, (facts,) = read_with_facts(tmp_path / "mask.png", SHAPE)
    assert np.array_equal(found, pixels > 0) and facts.kind == "classes"
    colours = [(0, 0, 0), *[(index, 0, 90) for index in range(1, 256)]]
    palette(pixels, *colours).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", SHAPE), pixels > 0)


DISC = np.hypot(*np.ogrid[-40:40, -60:60]) < 21


@pytest.mark.parametrize("quality", [30, 60, 90])
@pytest.mark.parametrize("level", [100, 128, 160])
def test_a_jpeg_drawn_in_grey_counts_from_half_of_its_own_level(tmp_path: Path, quality: int, level: int) -> None:
    Pillow.fromarray(DISC * np.uint8(level)).save(tmp_path / "mask.jpg", quality=quality)
    found, (facts,) = read_with_facts(tmp_path / "mask.jpg", DISC.shape)
    assert (found & DISC).sum() / (found | DISC).sum() > 0.98 and facts.dim


@pytest.mark.parametrize("quality", [30, 60, 90])
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (0, 200, 0)])
def test_a_colour_on_white_by_way_of_jpeg_is_what_is_marked(
    tmp_path: Path, quality: int, colour: tuple[int, int, int]
) -> None:
    Pillow.fromarray(np.where(DISC[..., None], colour, 255).astype(np.uint8)).save(
        tmp_path / "mask.jpg", quality=quality
    )
    found, (facts,) = read_with_facts(tmp_path / "mask.jpg", DISC.shape)
    assert (found & DISC).sum() / (found | DISC).sum() > 0.95 and (facts.open or colour == (0, 200, 0))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32])
@pytest.mark.parametrize("value", [1, 7, 255, -1])
def test_masks_in_whole_numbers_of_any_width_are_read(tmp_path: Path, dtype: type, value: int) -> None:
    if value < 0 and np.dtype(dtype).kind == "u":
        pytest.skip("unsigned")
    save_tiff(tmp_path / "mask.tif", (TRUTH * np.int64(value)).astype(dtype))
    found, (facts,) = read_with_facts(tmp_path / "mask.tif", SHAPE)
    assert np.array_equal(found, TRUTH) and facts.kind == "two"


def test_numbers_of_objects_and_a_background_below_0_are_read(tmp_path: Path) -> None:
    numbers = np.zeros((80, 120), np.int32)
    for object_ in range(60):
        top, left = divmod(object_, 10)
        numbers[12 * top + 2 : 12 * top + 9, 12 * left + 2 : 12 * left + 9] = 5 + 3 * object_
    save_tiff(tmp_path / "many.tif", numbers)
    save_tiff(tmp_path / "shifted.tif", np.where(numbers > 0, numbers, -1))
    Pillow.fromarray(numbers.astype(np.uint8)).save(tmp_path / "many.png")
    for name in ("many.tif", "shifted.tif", "many.png"):
        found, (facts,) = read_with_facts(tmp_path / name, numbers.shape)
        assert np.array_equal(found, numbers > 0) and facts.kind == "labels", name


def save_tiff(path: Path, values: np.ndarray) -> None:
    """A grey TIFF of one strip, whole numbers as they are."""
    height, width = values.shape
    data = np.ascontiguousarray(values).tobytes()
    bits, kind = 8 * values.dtype.itemsize, 2 if values.dtype.kind == "i" else 1
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, len(data)), (339, 3, kind)]
    body = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + body + b"\0\0\0\0")


def test_class_numbers_in_a_jpeg_are_remarked_on(tmp_path: Path) -> None:
    Pillow.fromarray(DISC.astype(np.uint8)).save(tmp_path / "mask.jpg", quality=60)
    reader = MaskReader()
    reader.read(tmp_path / "mask.jpg", DISC.shape)
    assert "1 of 1 masks are JPEG files of class numbers, which JPEG changes (mask.jpg, …)" in reader.sentences()[0]


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    Pillow.fromarray(np.full(SHAPE, np.nan, np.float32)).save(tmp_path / "mask.tif")
    with pytest.raises(ImageError, match=r"mask\.tif: the mask holds numbers that are not finite"):
        read_mask(tmp_path / "mask.tif", SHAPE)


def test_a_reader_says_of_how_many_masks_what_is_not_plain(tmp_path: Path) -> None:
    reader = MaskReader()
    Pillow.fromarray(WHITE).save(tmp_path / "0.png")
    assert np.array_equal(reader.read(tmp_path / "0.png", SHAPE), TRUTH)
    assert reader.sentences() == []
    by_way_of_jpeg(75).save(tmp_path / "1.png")
    with_alpha(255).save(tmp_path / "2.png")
    Pillow.fromarray(~WHITE).save(tmp_path / "3.png")
    Pillow.fromarray(np.full(SHAPE, 255, np.uint8)).save(tmp_path / "4.png")
    Pillow.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "5.png")
    Pillow.fromarray(np.where(TRUTH, np.uint8(2), np.uint8(1))).save(tmp_path / "6.png")
    for number in range(1, 7):
        reader.read(tmp_path / f"{number}.png", SHAPE)
    assert reader.sentences() == [
        "1 of 7 masks have many levels of grey (1.png, …): "
        "what is brighter than half of full scale counts as defective",
        "1 of 7 masks are drawn in the alpha channel alone (2.png, …): it was taken for the mask",
        "1 of 7 masks leave open which colour is the background (6.png, …): the commonest was taken",
        "1 of 7 masks mark every pixel of their image (4.png, …): save them with 0 where the part is good",
        "1 of 7 masks mark more than half of their image (3.png, …): "
        "if they are inverted, save them with 0 where the part is good",
        "1 of 7 masks mark no pixel (5.png, …): where these defects lie is not known",
    ]


def test_several_files_of_one_mask_are_united(tmp_path: Path) -> None:
    for name, rows in (("a", slice(10, 20)), ("b", slice(20, 30))):
        part = np.zeros(SHAPE, np.uint8)
        part[rows, 20:50] = 255
        Pillow.fromarray(part).save(tmp_path / f"{name}.png")
    assert np.array_equal(MaskReader().read([tmp_path / "a.png", tmp_path / "b.png"], SHAPE), TRUTH)


def test_a_cell_is_marked_where_any_pixel_under_it_is() -> None:
    """As adaptive pooling of PyTorch takes the largest; a scratch of one pixel does not vanish."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        size, cells = rng.integers(1, 40, 2).tolist(), rng.integers(1, 40, 2).tolist()
        mask = rng.random(size) < 0.05
        pooled = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(mask)[None, None].float(), cells)[0, 0] > 0
        assert np.array_equal(at_cells(mask, *cells), pooled.numpy())
    scratch = np.zeros((1024, 1024), bool)
    scratch[500, 100:900] = True
    assert at_cells(scratch, 256, 256).sum() == 200


def test_photos_do_not_look_like_masks_and_masks_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, pixels, wanted in (
        ("mask", WHITE, True),
        ("jpeg", np.asarray(by_way_of_jpeg(60)), True),
        ("photo", rng.normal(120, 8, SHAPE).clip(0, 255).astype(np.uint8), False),
        ("calm photo", rng.normal(4, 1, SHAPE).clip(0, 9).astype(np.uint8), False),
        ("even", np.full(SHAPE, 99, np.uint8), None),
        ("black", np.zeros(SHAPE, np.uint8), None),
    ):
        Pillow.fromarray(pixels).save(tmp_path / "x.png")
        assert looks_like_mask(tmp_path / "x.png") is wanted, name
    (tmp_path / "x.png").write_bytes(b"")
    assert looks_like_mask(tmp_path / "x.png") is False
