"""Image files: every format and depth as it was drawn, and every broken file named in one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from flawmap.data import limits
from flawmap.data.images import (
    SUFFIXES,
    decode_image,
    encode_jpeg,
    encode_png,
    outlines,
    overlay,
    read_image,
    read_mask,
    read_shape,
    resize_image,
    resize_map,
    resize_mask,
    taken_at,
    to_uint8,
    write_image,
)
from flawmap.errors import ImageError

Array = np.ndarray[Any, np.dtype[Any]]

EXACT: dict[str, dict[str, Any]] = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}
# All that a whole file can lose, by format: (name, Pillow's format, options).
FILES: list[tuple[str, str, dict[str, Any]]] = [
    ("png", "PNG", {}),
    ("jpg", "JPEG", {}),
    ("jpeg", "JPEG", {"progressive": True}),
    ("bmp", "BMP", {}),
    ("tif", "TIFF", {}),
    ("tiff", "TIFF", {"compression": "tiff_lzw"}),
    ("webp", "WEBP", {}),
]


def picture(height: int = 13, width: int = 17, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> Array:
    """Noise (H, W, C), blue first."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height: int = 32, width: int = 48) -> Array:
    """A picture that lossy formats keep."""
    return np.asarray(cv2.resize(picture(3, 4), (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def saved(image: Pillow.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pillow(pixels: Array) -> Pillow.Image:
    """BGR(A) or grey pixels as Pillow's image."""
    return Pillow.fromarray(pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]])


def scaled(pixels: Array) -> Array:
    """What reading must give: float32 (H, W, 3), alpha over black."""
    floats = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if floats.ndim == 2:
        return np.repeat(floats[:, :, None], 3, 2)
    return floats[:, :, :3] * floats[:, :, 3:] if floats.shape[2] == 4 else floats


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


# --- what is read is what was drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", EXACT)
def test_eight_bits_come_back_exactly(form: str, channels: int) -> None:
    pixels = picture(channels=channels)
    image = decode_image(saved(pillow(pixels), form, **EXACT[form]), "x")
    assert image.dtype == np.float32 and image.flags.c_contiguous
    assert np.array_equal(image, scaled(pixels))


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_comes_back_closely(grey: bool, progressive: bool) -> None:
    pixels = np.ascontiguousarray(smooth()[:, :, 0]) if grey else smooth()
    image = decode_image(saved(pillow(pixels), "JPEG", quality=98, subsampling=0, progressive=progressive), "x")
    assert np.abs(image - scaled(pixels)).max() < 0.03


@pytest.mark.parametrize(
    ("form", "options", "within"),
    [("WEBP", {"quality": 95}, 0.1), ("TIFF", {"compression": "jpeg", "quality": 98}, 0.05)],
)
def test_other_lossy_formats_come_back_closely(form: str, options: dict[str, Any], within: float) -> None:
    image = decode_image(saved(pillow(smooth()), form, **options), "x")
    assert np.abs(image - scaled(smooth())).max() < within


def test_a_tiff_in_brightness_and_colour_comes_back_closely() -> None:
    image = decode_image(saved(pillow(smooth()).convert("YCbCr"), "TIFF"), "x")
    assert np.abs(image - scaled(smooth())).max() < 0.03


def test_the_gamma_of_a_png_changes_no_pixel() -> None:
    pixels = picture(channels=1)
    assert np.array_equal(decode_image(saved(pillow(pixels), "PNG", gamma=0.45), "x"), scaled(pixels))


def test_a_line_camera_s_picture_one_pixel_wide_is_read() -> None:
    pixels = picture(4096, 1, channels=1)
    assert np.array_equal(decode_image(encode_png(pixels), "x"), scaled(pixels))


def test_a_file_is_read_by_its_bytes_and_not_by_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "jpeg.png").write_bytes(saved(pillow(smooth()), "JPEG", quality=98, subsampling=0))
    (tmp_path / "png.jpg").write_bytes(saved(pillow(smooth()), "PNG"))
    for name in ("jpeg.png", "png.jpg"):
        assert np.abs(read_image(tmp_path / name) - scaled(smooth())).max() < 0.03


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_kept(suffix: str, channels: int) -> None:
    pixels = picture(channels=channels, dtype=np.uint16)
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    assert np.allclose(decode_image(data, "x"), scaled(pixels), atol=1e-7)
    steps = np.arange(1000, 1256, dtype=np.uint16).reshape(16, 16)  # all the same once cut to 8 bits, but for one step
    assert len(np.unique(decode_image(cv2.imencode(suffix, steps)[1].tobytes(), "x"))) == 256


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate"])
def test_tiff_compressions_are_read(compression: str) -> None:
    pixels = picture()
    assert np.array_equal(decode_image(saved(pillow(pixels), "TIFF", compression=compression), "x"), scaled(pixels))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_turned_upright(form: str, orientation: int, tmp_path: Path) -> None:
    stored = smooth(16, 24)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if form == "JPEG" else EXACT[form]
    data = saved(pillow(stored), form, exif=exif, **options)
    image = decode_image(data, "x")
    assert image.shape == upright.shape
    assert np.abs(image - scaled(upright)).max() < 0.05
    (tmp_path / "turned").write_bytes(data)
    assert read_shape(tmp_path / "turned") == upright.shape[:2]


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_sixteen_bit_tiff_is_turned_once(orientation: int) -> None:
    stored = picture(channels=1, dtype=np.uint16)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    upright = np.rot90(stored, 2 if orientation == 3 else 3)
    assert np.array_equal(decode_image(saved(Pillow.fromarray(stored), "TIFF", exif=exif), "x"), scaled(upright))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_black_once(form: str) -> None:
    pixels = picture(channels=4)
    image = decode_image(saved(pillow(pixels), form, **EXACT[form]), "x")
    assert np.abs(image - scaled(pixels)).max() < 0.51 / 255


def test_alpha_of_a_bitmap_is_laid_over_black() -> None:
    pixels = picture(channels=4)
    assert np.allclose(decode_image(cv2.imencode(".bmp", pixels)[1].tobytes(), "x"), scaled(pixels), atol=1e-6)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_with_alpha_is_laid_over_black(form: str) -> None:
    both = picture(channels=3)[:, :, :2]
    image = decode_image(saved(Pillow.fromarray(both.copy(), "LA"), form), "x")
    assert np.allclose(image, scaled(both[:, :, 0]) * scaled(both[:, :, 1]), atol=1e-6)


def test_one_transparent_grey_of_a_png_becomes_black() -> None:
    grey = np.array([[7, 200], [200, 7]], np.uint8)
    image = decode_image(saved(Pillow.fromarray(grey), "PNG", transparency=200), "x")
    assert np.array_equal(image, scaled(np.array([[7, 0], [0, 7]], np.uint8)))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_palettes_give_their_colours(form: str) -> None:
    image = pillow(smooth()).quantize(16)
    want = np.asarray(image.convert("RGB"))[:, :, ::-1]
    assert np.array_equal(decode_image(saved(image, form), "x"), scaled(want))


def test_a_transparent_palette_entry_becomes_black() -> None:
    image = pillow(smooth()).quantize(8)
    decoded = decode_image(saved(image, "PNG", transparency=3), "x")
    gone = np.asarray(image) == 3
    assert gone.any() and not decoded[gone].any()
    assert np.array_equal(decoded[~gone], scaled(np.asarray(image.convert("RGB"))[:, :, ::-1])[~gone])


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"})]
)
def test_one_bit_is_black_and_white(form: str, options: dict[str, Any]) -> None:
    bits = picture(channels=1) > 127
    image = decode_image(saved(Pillow.fromarray(bits), form, **options), "x")
    assert np.array_equal(image, np.repeat(bits.astype(np.float32)[:, :, None], 3, 2))


@pytest.mark.parametrize(("form", "options"), [("JPEG", {"quality": 98, "subsampling": 0}), ("TIFF", {})])
def test_print_colours_are_brought_to_the_screens(form: str, options: dict[str, Any]) -> None:
    image = pillow(smooth()).convert("CMYK")
    want = scaled(np.asarray(image.convert("RGB"))[:, :, ::-1])
    assert np.abs(decode_image(saved(image, form, **options), "x") - want).max() < 0.03


def test_a_phones_jpeg_with_a_second_picture_gives_its_first() -> None:
    first = smooth()
    data = saved(pillow(first), "MPO", save_all=True, append_images=[pillow(first[::-1])], quality=98)
    assert Pillow.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(decode_image(data, "x") - scaled(first)).max() < 0.06


def test_a_floating_point_tiff_is_read_within_its_scale_and_refused_beyond() -> None:
    grey = picture(channels=1).astype(np.float32) / 255
    assert np.array_equal(decode_image(saved(Pillow.fromarray(grey), "TIFF"), "x")[:, :, 1], grey)
    with pytest.raises(ImageError, match=r"^x: a floating-point image must lie in \[0, 1\]; divide it"):
        decode_image(saved(Pillow.fromarray(grey * 255), "TIFF"), "x")


def test_signed_integers_are_refused() -> None:
    with pytest.raises(ImageError, match=r"^x: pixels of type int32 are not supported; save it with 8 or 16 bits$"):
        decode_image(saved(Pillow.fromarray(picture(channels=1).astype(np.int32)), "TIFF"), "x")


@pytest.mark.parametrize(
    "name", ["a b.png", "Gehäuse №7 – 検査.png", "naïve.JPG", "ü.TIFF", "x.webp", "x.bmp", "ж.jpeg", "x.tif"]
)
def test_names_with_spaces_and_any_letters_are_written_and_read(tmp_path: Path, name: str) -> None:
    assert Path(name).suffix.lower() in SUFFIXES
    pixels = smooth()
    write_image(tmp_path / name, pixels)
    assert np.abs(read_image(tmp_path / name) - scaled(pixels)).mean() < 0.02
    assert np.array_equal(read_image(str(tmp_path / name)), read_image(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing temporary stays


SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3, 4]), st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None, database=None)
@given(shape=SHAPES, sixteen=st.booleans())
def test_any_png_decodes_to_its_pixels(shape: tuple[int, int, int, int], sixteen: bool) -> None:
    height, width, channels, seed = shape
    pixels = picture(height, width, channels, np.uint16 if sixteen else np.uint8, seed)
    image = decode_image(encode_png(pixels), "x")
    assert image.shape == (height, width, 3)
    assert np.allclose(image, scaled(pixels), atol=1e-7)
    if not sixteen and channels < 4:
        whole = scaled(pixels)
        assert np.array_equal(to_uint8(image), np.round(whole * 255))


@settings(max_examples=80, deadline=None, database=None)
@given(
    data=st.binary(min_size=1, max_size=200),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"RIFF"]),
)
def test_any_bytes_are_an_image_or_one_line(data: bytes, start: bytes) -> None:
    try:
        decode_image(start + data, "some file")
    except ImageError as problem:
        assert str(problem).startswith("some file: ") and "\n" not in str(problem)


# --- what cannot be used is named ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "form", "options"), FILES)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, suffix: str, form: str, options: dict[str, Any]) -> None:
    data = saved(pillow(picture()), form, **options)
    assert decode_image(data, "x").shape == (13, 17, 3)
    for left in sorted(
        {1, 2, 7, 20, *(len(data) * share // 8 for share in range(1, 8)), *(len(data) - n for n in (1, 2, 4))}
    ):
        path = tmp_path / f"cut {left}.{suffix}"
        path.write_bytes(data[:left])
        message = refusal(path)
        assert any(word in message for word in ("truncated", "damaged", "not an image")), message


@pytest.mark.parametrize(("suffix", "form"), [("png", "PNG"), ("jpg", "JPEG"), ("bmp", "BMP"), ("tif", "TIFF")])
def test_a_file_that_lacks_its_last_byte_is_said_to_be_truncated(tmp_path: Path, suffix: str, form: str) -> None:
    (tmp_path / f"x.{suffix}").write_bytes(saved(pillow(picture()), form)[:-1])
    assert refusal(tmp_path / f"x.{suffix}").endswith("the image is truncated; copy it again or remove it")


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_jpeg() -> None:
    small, large = (saved(pillow(picture(side, side)), "JPEG") for side in (40, 16))
    block = b"\xff\xe1" + struct.pack(">H", len(small) + 8) + b"Thumb\0" + small
    data = large[:2] + block + large[2:]
    assert decode_image(data, "x").shape == (16, 16, 3)
    for left in (len(data) - 40, len(data) - 2):
        assert data[:left].rfind(b"\xff\xd9") > left // 2
        with pytest.raises(ImageError, match="truncated"):
            decode_image(data[:left], "x")


def test_a_png_that_only_speaks_of_its_end_is_truncated() -> None:
    data = encode_png(picture())
    words = b"tEXtComment\0IEND of line"
    chunk = struct.pack(">I", len(words) - 4) + words + struct.pack(">I", zlib.crc32(words))
    assert decode_image(data[:33] + chunk + data[33:], "x").shape == (13, 17, 3)
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[:33] + chunk + data[33:-40], "x")


def test_a_bitmap_without_a_stated_size_is_read_whole_and_refused_cut() -> None:
    data = bytearray(saved(pillow(picture()), "BMP"))
    data[2:6] = bytes(4)
    assert np.array_equal(decode_image(bytes(data), "x"), scaled(picture()))
    with pytest.raises(ImageError, match=r"^x: the image is truncated"):
        decode_image(bytes(data[: len(data) // 2]), "x")


def test_pixels_of_a_png_that_do_not_match_their_checksum_are_damaged() -> None:
    data = bytearray(encode_png(picture()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError, match=r"^x: the image is damaged"):
        decode_image(bytes(data), "x")


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_an_empty_file_is_named(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"none{suffix}").touch()
    assert refusal(tmp_path / f"none{suffix}").endswith("the file is empty; copy it again or remove it")


@pytest.mark.parametrize("data", [b"hello", bytes(300), b"RIFF" + bytes(99)])
def test_what_is_no_image_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "no image.png").write_bytes(data)
    assert "not an image, or damaged at its start; expected PNG" in refusal(tmp_path / "no image.png")


def test_a_folder_a_missing_file_and_one_without_permission_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.png").mkdir()
    assert "cannot be read (Is a directory)" in refusal(tmp_path / "folder.png")
    assert refusal(tmp_path / "gone.png").endswith("there is no such file")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "no permission to read it; change its permissions" in refusal(tmp_path / "shut.png")


@pytest.mark.parametrize(("suffix", "form", "options"), FILES)
def test_more_pixels_than_the_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, form: str, options: dict[str, Any]
) -> None:
    path = tmp_path / f"large.{suffix}"
    path.write_bytes(saved(pillow(picture(10, 11)), form, **options))
    monkeypatch.setattr(limits, "MAX_PIXELS", 110)
    assert read_image(path).shape == (10, 11, 3)
    monkeypatch.setattr(limits, "MAX_PIXELS", 109)
    assert refusal(path).endswith("11x10 is over the limit of 109 pixels; cut it into smaller images")


@pytest.mark.parametrize(("side", "word"), [(60000, "60000x60000 is over the limit"), (14000, "truncated")])
def test_a_bomb_is_refused_by_its_header_and_by_our_limit_alone(side: int, word: str) -> None:
    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    before = Pillow.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=rf"^x: .*{word}"):
        decode_image(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT" + bytes(20)), "x")
    assert before == Pillow.MAX_IMAGE_PIXELS


# --- masks ---------------------------------------------------------------------------------------------------------


def test_a_mask_is_true_where_any_channel_is_not_zero(tmp_path: Path) -> None:
    mask = picture(channels=1) > 127
    colour = np.zeros((13, 17, 4), np.uint8)
    colour[..., 3] = 255  # opaque, which says nothing
    colour[..., 1] = mask
    for name, pixels in (
        ("grey", mask * np.uint8(255)),
        ("one", mask * np.uint8(1)),
        ("deep", mask * np.uint16(1)),
        ("colour", colour),
    ):
        (tmp_path / f"{name}.png").write_bytes(encode_png(pixels))
        found = read_mask(tmp_path / f"{name}.png", (13, 17))
        assert found.dtype == np.bool_ and np.array_equal(found, mask)
    Pillow.fromarray(mask).save(tmp_path / "bit.bmp")
    assert np.array_equal(read_mask(tmp_path / "bit.bmp", (13, 17)), mask)


def test_a_mask_of_another_size_names_both(tmp_path: Path) -> None:
    write_image(tmp_path / "mask.png", picture(channels=1))
    with pytest.raises(ImageError) as caught:
        read_mask(tmp_path / "mask.png", (17, 13))
    assert str(caught.value) == (
        f"{tmp_path / 'mask.png'}: the mask is 17x13 pixels but its image 13x17; save it at the image's size"
    )


def test_a_folder_of_masks_is_their_union_and_needs_one(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the folder holds no mask"):
        read_mask(tmp_path, (2, 2))
    write_image(tmp_path / "0.png", np.array([[9, 0], [0, 0]], np.uint8))
    write_image(tmp_path / "1.png", np.array([[0, 0], [0, 255]], np.uint8))
    assert np.array_equal(read_mask(tmp_path, (2, 2)), np.eye(2, dtype=bool))


# --- writing and pixel operations ----------------------------------------------------------------------------------


def test_a_picture_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "x.xyz", "cannot be written in this format; use .png or .jpg"),
        (tmp_path / "x", "cannot be written in this format; use .png or .jpg"),
        (tmp_path / "gone" / "x.png", "cannot be written (No such file or directory)"),
    ):
        with pytest.raises(ImageError) as caught:
            write_image(path, picture())
        assert str(caught.value) == f"{path}: {words}"
    assert not list(tmp_path.iterdir())


def test_writing_replaces_what_was_there(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_image(tmp_path / "x.png", picture(seed=seed))
    assert np.array_equal(read_image(tmp_path / "x.png"), scaled(picture(seed=1)))


def test_jpeg_bytes_follow_their_quality() -> None:
    assert len(encode_jpeg(smooth(), 20)) < len(encode_jpeg(smooth(), 95))


def test_to_uint8_rounds_and_clips() -> None:
    values = np.array([-1, 0, 0.499 / 255, 0.501 / 255, 1, 7], np.float32)
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("shrink", ["linear", "area"])
def test_resizing_keeps_flat_pictures_flat_and_its_own_size_as_it_is(shrink: Any) -> None:
    flat = np.full((20, 30, 3), 0.25, np.float32)
    for height, width in ((10, 15), (40, 60), (7, 90)):
        resized = resize_image(flat, height, width, shrink)
        assert resized.shape == (height, width, 3) and np.allclose(resized, 0.25)
    assert resize_image(flat, 20, 30, shrink) is flat


def test_shrinking_by_area_averages() -> None:
    image = scaled(picture(8, 8))
    halves = image.reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.allclose(resize_image(image, 4, 4, "area"), halves, atol=1e-6)
    assert not np.allclose(resize_image(image[:, ::-1], 3, 3, "linear"), resize_image(image[:, ::-1], 3, 3, "area"))


def test_masks_stay_of_two_values_and_maps_are_blended() -> None:
    mask = np.eye(4, dtype=bool)
    assert np.array_equal(resize_mask(mask, 8, 8), np.kron(mask, np.ones((2, 2))) > 0)
    blended = resize_map(np.eye(2, dtype=np.float32), 4, 4)
    assert blended.shape == (4, 4) and blended.dtype == np.float32
    assert ((blended > 0) & (blended < 1)).any()


def test_outlines_surround_each_area_once_and_show_on_the_overlay() -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:10, 20:30] = mask[25:35, 40:50] = True
    mask[28:32, 43:47] = False  # a hole has no outline of its own
    found = outlines(mask)
    assert sorted((*polygon.min(0), *polygon.max(0)) for polygon in found) == [(20, 5, 29, 9), (40, 25, 49, 34)]
    grey = np.full((40, 60, 3), 0.5, np.float32)
    plain, drawn = (overlay(grey, np.zeros((40, 60), np.float32), polygons) for polygons in ([], found))
    assert plain.dtype == np.uint8 and (plain == 128).all()
    assert (drawn[5, 20] != 128).any() and (drawn[20, 5] == 128).all()
    hot = overlay(grey, mask.astype(np.float32), [])
    assert (hot[7, 25] != 128).any() and (hot[20, 5] == 128).all()


# --- what one would not think of -----------------------------------------------------------------------------------


def colours(form: str, **options: Any) -> bytes:
    picture = Pillow.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert("RGB")
    return saved(picture, form, **options)


def test_a_bitmap_whose_stated_size_is_wrong_is_read() -> None:
    data = bytearray(colours("BMP"))
    data[2:6] = struct.pack("<I", 10**8)
    assert decode_image(bytes(data), "x").shape == (3, 4, 3)


@pytest.mark.parametrize("form", ["TIFF", "PNG", "WEBP"])
def test_a_file_of_several_images_is_refused_and_not_cut_to_its_first(form: str) -> None:
    other = Pillow.new("RGB", (4, 3), (9, 9, 200))
    with pytest.raises(ImageError, match=r"^x: the file holds several images; save each"):
        decode_image(colours(form, save_all=True, append_images=[other]), "x")


def test_a_smaller_version_kept_in_a_tiff_does_not_count_as_another_image() -> None:
    small = Pillow.new("RGB", (2, 2))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    data = colours("TIFF", save_all=True, append_images=[small])
    assert decode_image(data, "x").shape == (3, 4, 3)


def test_damaged_exif_leaves_the_image_as_it_is() -> None:
    text = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"
    assert decode_image(colours("JPEG", exif=text), "x").shape == (3, 4, 3)


def test_a_jpeg_mask_has_no_rings_about_its_edges(tmp_path: Path) -> None:
    square = np.zeros((40, 40), np.uint8)
    square[11:30, 11:30] = 255
    Pillow.fromarray(square).save(tmp_path / "mask.jpg", quality=60)
    assert np.array_equal(read_mask(tmp_path / "mask.jpg", (40, 40)), square > 0)


def test_hidden_files_in_a_folder_of_masks_are_no_masks(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", np.full((3, 4), 255, np.uint8))
    (tmp_path / "._0.png").write_bytes(b"Mac OS X")
    assert read_mask(tmp_path, (3, 4)).all()


def test_writing_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "file" / "0.png", np.zeros((3, 4), np.uint8))


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ImageError, match="is not the name of a file"):
        read_image("a\0b.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_time_of_a_photo_is_that_of_its_exif_data(form: str, tmp_path: Path) -> None:
    exif, file = Pillow.Exif(), tmp_path / "photo"
    exif[0x0112] = 1  # without a plain tag Pillow writes none into some formats
    exif.get_ifd(0x8769).update({0x9003: "2026:05:06 07:08:09", 0x9291: "12"})
    file.write_bytes(saved(Pillow.new("L", (4, 3)), form, exif=exif))
    assert taken_at(file) == "2026:05:06 07:08:09.12"


def test_a_photo_without_a_time_or_with_damaged_exif_has_none(tmp_path: Path) -> None:
    text = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"
    for number, data in enumerate((colours("JPEG"), colours("PNG"), colours("JPEG", exif=text), b"no image")):
        (tmp_path / str(number)).write_bytes(data)
        assert taken_at(tmp_path / str(number)) == ""
    with pytest.raises(ImageError, match="there is no such file"):
        taken_at(tmp_path / "missing.png")
