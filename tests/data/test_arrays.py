"""Images in memory: each form gives the pixels that the file gives, each mistake one line that says what to do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flawmap.data.arrays import name_of, pixels_of, several
from flawmap.data.images import encode_png, read_pixels, to_float, write_image
from flawmap.errors import ImageError

BGR = np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8)
RGB = np.ascontiguousarray(BGR[:, :, ::-1])
GREY = BGR[:, :, 0].copy()
FLOAT = (BGR / 255).astype(np.float32)


def same(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any] = BGR) -> bool:
    return found.shape == expected.shape and bool(np.abs(to_float(found) - to_float(expected)).max() < 1e-3)


@pytest.mark.parametrize(
    ("image", "order"),
    [
        (BGR, None),
        (BGR, "bgr"),
        (RGB, "rgb"),
        (BGR.astype(np.uint16) * 257, None),
        (BGR.astype(">u2") * 257, None),
        (FLOAT.astype(np.float64), None),
        (np.asfortranarray(BGR), None),
        (torch.from_numpy(BGR), None),
        (torch.from_numpy(RGB).permute(2, 0, 1), "rgb"),
        (torch.from_numpy(FLOAT).permute(2, 0, 1).requires_grad_(), "bgr"),
        (torch.from_numpy(FLOAT).half(), None),
        (Image.fromarray(RGB), None),
        (Image.fromarray(RGB), "rgb"),
        (Image.fromarray(RGB).convert("RGBA"), None),
        (encode_png(BGR), None),
        (bytearray(encode_png(BGR)), None),
        (memoryview(encode_png(BGR)), None),
        (io.BytesIO(encode_png(BGR)), None),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_every_form_of_an_image_gives_its_pixels(image: Any, order: str | None) -> None:
    assert same(pixels_of(image, order))


def test_bfloat16_is_taken_as_exactly_as_it_is() -> None:
    assert np.abs(pixels_of(torch.from_numpy(FLOAT).bfloat16()) - FLOAT).max() < 1 / 256


@pytest.mark.parametrize(
    "image",
    [GREY, GREY[:, :, None], torch.from_numpy(GREY), torch.from_numpy(GREY)[None], Image.fromarray(GREY),
     Image.fromarray(GREY.astype(np.uint16) * 257), Image.fromarray((GREY / 255).astype(np.float32))],
)  # fmt: skip
@pytest.mark.parametrize("order", [None, "rgb"])
def test_grey_is_three_equal_channels_and_held_once(image: Any, order: str | None) -> None:
    if isinstance(image, Image.Image) and image.mode == "L":
        order = None
    found = pixels_of(image, order)
    assert same(found, np.repeat(GREY[:, :, None], 3, axis=2))
    assert found.strides[2] == 0


def test_strings_paths_and_an_open_file_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "Teil 1.png"
    write_image(file, BGR)
    with file.open("rb") as opened:
        for image in (file, str(file), opened):
            assert same(pixels_of(image))
    with file.open(encoding="latin-1") as opened, pytest.raises(ImageError, match="mode 'rb'"):
        pixels_of(opened)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_a_pil_image_of_a_file_is_as_the_file(mode: str, tmp_path: Path) -> None:
    shown = Image.fromarray(RGB).convert("L" if mode == "I;16" else "RGB")
    image = Image.fromarray(np.asarray(shown).astype(np.uint16) * 257) if mode == "I;16" else shown.convert(mode)
    suffix = {"CMYK": ".tif", "YCbCr": ".tif", "HSV": "", "PA": ""}.get(mode, ".png")
    if not suffix:
        assert same(pixels_of(image), pixels_of(image.convert("RGB")))
        return
    image.save(tmp_path / f"part{suffix}")
    with Image.open(tmp_path / f"part{suffix}") as opened:
        assert np.abs(to_float(pixels_of(opened)) - to_float(read_pixels(tmp_path / f"part{suffix}"))).max() < 0.02


@pytest.mark.parametrize("kind", [".jpg", ".tif", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_pil_image_is_turned_upright_as_its_file(orientation: int, kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"part{kind}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
    Image.fromarray(smooth).convert("RGB").save(file, exif=exif, **({"quality": 95} if kind != ".png" else {}))
    with Image.open(file) as opened:
        found, expected = pixels_of(opened), read_pixels(file)
    assert found.shape == expected.shape
    assert np.abs(to_float(found) - to_float(expected)).max() < 0.03


def test_transparent_pixels_lie_over_black_as_in_files(tmp_path: Path) -> None:
    image = Image.fromarray(np.dstack([RGB, GREY]))
    image.save(tmp_path / "part.png")
    assert np.array_equal(pixels_of(image), read_pixels(tmp_path / "part.png"))


class Foreign:
    """An array of another library."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return BGR


def test_an_array_of_another_library_is_taken() -> None:
    assert same(pixels_of(Foreign()))  # type: ignore[arg-type]


def test_an_array_of_the_right_type_is_not_copied() -> None:
    assert np.shares_memory(pixels_of(BGR), BGR)
    assert np.shares_memory(pixels_of(RGB, "rgb"), RGB)


ZEROS = np.zeros((64, 64, 3), np.float32)


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        (np.zeros((3, 64, 64), np.uint8), r"np\.moveaxis\(image, 0, -1\)"),
        (np.zeros((1, 64, 64), np.uint8), r"np\.moveaxis"),
        (np.zeros((64, 64, 4), np.uint8), r"leave out alpha"),
        (np.zeros((64, 64, 5), np.uint8), r"those that show the part"),
        (np.zeros((64, 64, 2), np.uint8), r"3 channels or 1"),
        (np.zeros((2, 64, 64, 3), np.uint8), r"inspect_many"),
        (np.zeros((0, 64, 3), np.uint8), r"empty"),
        (np.zeros((64, 0), np.uint8), r"empty"),
        (np.zeros(64, np.uint8), r"tobytes"),
        (np.zeros((), np.float32), r"\(H, W, 3\) or \(H, W\)"),
        (np.zeros((64, 64, 3), np.int64), r"astype\(np\.uint8\)"),
        (np.zeros((64, 64, 3), np.int16), r"astype\(np\.uint16\)"),
        (np.zeros((64, 64, 3), np.uint32), r"full scale"),
        (np.zeros((64, 64, 3), bool), r"mask"),
        (np.zeros((64, 64, 3), complex), r"complex128"),
        (np.full((64, 64, 3), "a"), r"uint8, uint16 or float"),
        (np.full((64, 64), None), r"object"),
        (ZEROS + 255, r"\[255, 255\].*divide it by its full scale"),
        (ZEROS - 0.5, r"undo its normalisation"),
        (ZEROS + np.nan, r"NaN"),
        (ZEROS + np.inf, r"infinite"),
        (ZEROS - np.inf, r"infinite"),
        (torch.zeros(1, 3, 64, 64), r"tensor\[0\]"),
        (torch.zeros(4, 64, 64), r"tensor\[:3\]"),
        (torch.zeros(3, 64, 64) - 2, r"normalisation"),
        (torch.zeros(3, 64, 64, dtype=torch.int32), r"full scale"),
        (torch.zeros(3, 0, 64), r"empty"),
        (torch.zeros(3, 64, 64).to_sparse(), r"to_dense"),
        (Image.new("I", (8, 8)), r"astype\(np\.uint16\)"),
        (Image.new("LAB", (8, 8)), r"convert\('RGB'\)"),
        (Image.new("RGB", (0, 8)), r"empty"),
        (b"", r"no bytes"),
        (b"no image", r"not an image"),
        (encode_png(BGR)[:100], r"truncated|damaged"),
        ([[1, 2, 3]], r"not list"),
        (None, r"not NoneType"),
        (7, r"not int"),
        ("", r"folder"),
        ("no/such/part.png", r"no such file"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line_that_says_what_to_do(wrong: Any, cure: str) -> None:
    with pytest.raises(ImageError, match=cure) as raised:
        pixels_of(wrong)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 250


def test_an_order_is_bgr_or_rgb_and_that_of_a_pil_image_is_known() -> None:
    with pytest.raises(ImageError, match="'RGB'; there are: bgr, rgb"):
        pixels_of(BGR, "RGB")
    with pytest.raises(ImageError, match="leave out order"):
        pixels_of(Image.fromarray(RGB), "bgr")


def test_a_truncated_or_closed_pil_image_is_refused_in_one_line(tmp_path: Path) -> None:
    write_image(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    with (
        Image.open(tmp_path / "cut.png") as image,
        pytest.raises(ImageError, match=r"cut\.png: the image is truncated"),
    ):
        pixels_of(image)
    with Image.open(tmp_path / "whole.png") as image:
        pass
    with pytest.raises(ImageError, match="cannot be decoded"):
        pixels_of(image)


@pytest.mark.parametrize(
    "one", ["part.png", Path("part.png"), b"bytes", BGR, GREY, torch.zeros(3, 8, 8), Image.new("L", (8, 8))]
)
def test_one_image_is_not_taken_for_several(one: Any) -> None:
    with pytest.raises(ImageError, match="give a list"):
        several(one)


def test_a_stack_is_several_images() -> None:
    assert [same(pixels_of(image)) for image in several(np.stack([BGR, BGR]))] == [True, True]


def test_messages_name_the_file() -> None:
    assert name_of("parts/1.png") == name_of(Path("parts/1.png")) == str(Path("parts/1.png"))
    assert name_of(BGR) == "image array" and name_of(b"x") == "image" and name_of(Image.new("L", (1, 1))) == "PIL image"
