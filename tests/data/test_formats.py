"""Rare and damaged image files: the pixels that the file says, or one line with the real reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from flawmap.data import decoding, images, limits
from flawmap.data.filekinds import kind_of_bytes
from flawmap.data.formats import Damage, jpeg, rare, tiff, tiff_colour
from flawmap.data.formats import png as png_format
from flawmap.data.images import decode_image, decode_pixels, header_of, read_mask, read_shape
from flawmap.errors import ImageError

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(autouse=True)
def _no_remarks_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(images.DAMAGED, "refuse")
    images.remarks()
    yield
    images.remarks()


def surface(height: int = 96, width: int = 131, seed: int = 0) -> Array:
    """A smooth picture with some noise, (H, W, 3) uint8 in RGB order; odd sides."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.integers(30, 220, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth.astype(int) + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def as_tiff(samples: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


def saved(image: Pillow.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bgr(rgb: Array) -> Array:
    """RGB or grey of any type -> (H, W, 3) float32 in [0, 1], BGR."""
    full = 1 if rgb.dtype.kind == "f" else np.iinfo(rgb.dtype).max
    floats = (rgb / full).astype(np.float32)
    return np.repeat(floats[:, :, None], 3, 2) if rgb.ndim == 2 else np.ascontiguousarray(floats[:, :, ::-1])


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_pixels(data, "x")
    message = str(caught.value)
    assert message.startswith("x: ") and "\n" not in message
    return message


COLOUR = surface()
GREY = np.ascontiguousarray(COLOUR[:, :, 0])
DEEP = COLOUR.astype(np.uint16) * 257 + np.arange(131, dtype=np.uint16)[None, :, None] % 3
DEEP_GREY = np.ascontiguousarray(DEEP[:, :, 0])


# --- TIFF: every kind gives its pixels -------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("tile", [None, (32, 48)])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [False, True])
def test_a_tiff_of_any_depth_order_and_arrangement_gives_its_pixels(
    compression: str | None, tile: tuple[int, int] | None, order: str, predictor: bool
) -> None:
    if predictor and compression in (None, "packbits", "lzma"):
        pytest.skip("no writer has a predictor there")
    for samples, photometric, want in [
        (COLOUR, "rgb", COLOUR),
        (DEEP, "rgb", DEEP),
        (GREY, "minisblack", GREY),
        (DEEP_GREY, "minisblack", DEEP_GREY),
        (255 - GREY, "miniswhite", GREY),
        (65535 - DEEP_GREY, "miniswhite", DEEP_GREY),
    ]:
        data = as_tiff(
            samples, photometric=photometric, compression=compression, tile=tile, byteorder=order,
            predictor=predictor, rowsperstrip=None if tile else 7,
        )  # fmt: skip
        assert np.array_equal(decode_image(data, "x"), bgr(want)), (samples.dtype, photometric)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
@pytest.mark.parametrize("picture", [COLOUR, DEEP], ids=["8 bits", "16 bits"])
def test_colours_in_separate_planes_are_put_together(compression: str | None, picture: Array) -> None:
    planes = np.ascontiguousarray(np.moveaxis(picture, 2, 0))
    data = as_tiff(planes, photometric="rgb", planarconfig="separate", compression=compression, rowsperstrip=11)
    assert np.array_equal(decode_image(data, "x"), bgr(picture))


@pytest.mark.parametrize("rows", [1, 7, 200])
@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("predictor", [False, True])
def test_strips_of_any_height_are_put_together(rows: int, compression: str | None, predictor: bool) -> None:
    predictor = predictor and compression is not None
    for picture, kind in ((COLOUR, "rgb"), (DEEP, "rgb"), (DEEP_GREY, "minisblack"), (GREY, "miniswhite")):
        data = as_tiff(picture, photometric=kind, compression=compression, predictor=predictor, rowsperstrip=rows)
        assert np.array_equal(decode_image(data, "x"), bgr(255 - picture if kind == "miniswhite" else picture)), kind


def test_strips_in_another_order_than_the_rows_are_put_in_place() -> None:
    tags = {256: 131, 257: 96, 258: 8, 259: 1, 262: 1, 277: 1, 278: 48}
    body = GREY[48:].tobytes() + GREY[:48].tobytes()
    data = minimal_tiff(body, "<", {**tags, 273: [8 + 48 * 131, 8], 279: [48 * 131] * 2})
    assert np.array_equal(decode_image(data, "x"), bgr(GREY))


def test_single_bits_of_a_rare_compression_are_read() -> None:
    bits = GREY > 127
    data = as_tiff(bits, photometric="minisblack", compression="zstd")
    assert np.array_equal(decode_image(data, "x"), bgr(bits.astype(np.uint8) * 255))


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zlib", None])
def test_a_strip_of_no_stated_length_beyond_the_end_is_truncated(compression: str | None) -> None:
    data = as_tiff(COLOUR, photometric="rgb", compression=compression, rowsperstrip=1000)
    page = tiff.read_page(data)
    lengths = data.find(struct.pack("<HHI", 279, 4, 1))  # the tag of its lengths is made one that nobody knows
    bare = data[:lengths] + struct.pack("<H", 0x8000) + data[lengths + 2 :]
    assert np.array_equal(decode_image(bare, "x"), bgr(COLOUR))
    assert "the image is truncated" in reason(bare[: int(page.offsets[0]) - 8])


@pytest.mark.parametrize("picture", [COLOUR, DEEP], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_fourth_channel_that_is_no_alpha_is_left_out_and_told(picture: Array, compression: str | None) -> None:
    infrared = np.dstack([picture, picture[:, :, 0] // 3])
    data = as_tiff(infrared, photometric="rgb", extrasamples=["unspecified"], compression=compression)
    assert np.array_equal(decode_image(data, "nir.tif"), bgr(picture))
    assert images.remarks() == ["nir.tif: channels that are neither colour nor alpha were left out"]


@pytest.mark.parametrize("picture", [COLOUR, DEEP], ids=["8 bits", "16 bits"])
def test_alpha_is_laid_on_black_once(picture: Array) -> None:
    alpha = np.full_like(picture[:, :, 0], np.iinfo(picture.dtype).max // 2)
    share = alpha[0, 0] / np.iinfo(picture.dtype).max
    both = np.dstack([picture, alpha])
    laid = as_tiff(both, photometric="rgb", extrasamples=["assocalpha"])
    assert np.array_equal(decode_image(laid, "x"), bgr(picture))
    apart = as_tiff(both, photometric="rgb", extrasamples=["unassalpha"])
    assert np.allclose(decode_image(apart, "x"), bgr(picture) * share, atol=1e-6)


@pytest.mark.parametrize("picture", [GREY, DEEP_GREY], ids=["8 bits", "16 bits"])
def test_a_second_channel_is_alpha_or_left_out_and_told(picture: Array) -> None:
    both = np.dstack([picture, picture // 2])
    other = as_tiff(both, photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"])
    assert np.array_equal(decode_image(other, "x"), bgr(picture))
    assert images.remarks() == ["x: channels that are neither colour nor alpha were left out"]
    alpha = as_tiff(both, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])
    assert np.allclose(decode_image(alpha, "x"), bgr(picture) * bgr(both[:, :, 1]), atol=1e-6)
    assert images.remarks() == []


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("predictor", [False, True])
def test_floating_point_of_any_width_is_read(kind: str, compression: str | None, predictor: bool) -> None:
    if predictor and not compression:
        pytest.skip("no writer has a predictor there")
    options: dict[str, Any] = {"compression": compression, "predictor": predictor}
    colour, grey = (bgr(COLOUR)[:, :, ::-1]).astype(kind), bgr(GREY)[:, :, 0].astype(kind)
    assert np.array_equal(decode_image(as_tiff(colour, photometric="rgb", **options), "x"), bgr(colour))
    assert np.array_equal(decode_image(as_tiff(grey, photometric="minisblack", **options), "x"), bgr(grey))
    white = as_tiff((1 - grey).astype(kind), photometric="miniswhite", **options)
    assert np.allclose(decode_image(white, "x"), bgr(grey), atol=1e-3 if kind == "float16" else 1e-6)


def packed(values: Array, bits: int) -> Array:
    """(H, W) -> (H, bytes): the most significant bit first, each row at a byte's start."""
    ones = (values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(ones.astype(np.uint8).reshape(len(values), -1), axis=1)


def minimal_tiff(body: bytes, order: str, tags: dict[int, int | list[int]]) -> bytes:
    """A TIFF of one strip, by hand: `tags` besides the strip's place."""
    every = {273: 8, 279: len(body), **tags}
    at = 8 + len(body) + len(body) % 2
    entries, lists, end = b"", b"", at + 2 + 12 * len(every) + 4
    for tag in sorted(every):
        value = every[tag]
        values = value if isinstance(value, list) else [value]
        raw = struct.pack(f"{order}{len(values)}I", *values)
        inline = raw if len(raw) == 4 else struct.pack(order + "I", end + len(lists))
        lists += raw if len(raw) > 4 else b""
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + inline
    mark = b"II*\0" if order == "<" else b"MM\0*"
    start = mark + struct.pack(order + "I", at) + body + bytes(len(body) % 2)
    return start + struct.pack(order + "H", len(every)) + entries + bytes(4) + lists


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_packed_bits_have_white_at_their_own_full_scale(order: str, bits: int, white_is_zero: bool) -> None:
    white = (1 << bits) - 1
    values = np.random.default_rng(bits).integers(0, white + 1, (9, 13))
    stored = white - values if white_is_zero else values
    tags: dict[int, int | list[int]] = {
        256: 13,
        257: 9,
        258: bits,
        259: 1,
        262: 0 if white_is_zero else 1,
        277: 1,
        278: 9,
    }
    data = minimal_tiff(packed(stored, bits).tobytes(), order, tags)
    assert np.allclose(decode_image(data, "x")[:, :, 0], values / white, atol=1e-5)
    assert header_of(data, "x") == ("TIFF", 13, 9)


def test_bits_reversed_in_each_byte_are_turned() -> None:
    body = GREY.tobytes().translate(bytes(int(f"{value:08b}"[::-1], 2) for value in range(256)))
    tags: dict[int, int | list[int]] = {256: 131, 257: 96, 258: 8, 259: 1, 262: 1, 266: 2, 277: 1, 278: 96}
    assert np.array_equal(decode_image(minimal_tiff(body, "<", tags), "x"), bgr(GREY))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("picture", [COLOUR, DEEP_GREY], ids=["colour", "16-bit grey"])
def test_a_tiff_is_turned_upright_and_its_shape_told(orientation: int, picture: Array, tmp_path: Path) -> None:
    upright = picture
    for name in {2: "x", 3: "xy", 4: "y", 5: "t", 6: "tx", 7: "txy", 8: "ty"}.get(orientation, ""):
        upright = upright.swapaxes(0, 1) if name == "t" else np.flip(upright, 1 if name == "x" else 0)
    photometric = "rgb" if picture.ndim == 3 else "minisblack"
    data = as_tiff(picture, photometric=photometric, extratags=[(274, 3, 1, orientation, True)])
    (tmp_path / "turned.tif").write_bytes(data)
    assert np.array_equal(decode_image(data, "x"), bgr(upright))
    assert read_shape(tmp_path / "turned.tif") == upright.shape[:2]


def to_lab(rgb: Array) -> Array:
    """sRGB in [0, 1] -> L* in [0, 100], a* and b* under D50, by the formulas of IEC 61966-2-1 and CIE 15."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    xyz = linear @ np.array(matrix).T / (0.9642, 1.0, 0.8249)  # Lindbloom's sRGB under D50
    roots = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(roots, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize("kind", ["cielab", "icclab"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colours_in_cielab_come_in_by_the_formula(kind: str, bits: int, compression: str | None) -> None:
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, 8).T
    rgb = np.vstack([np.random.default_rng(0).uniform(0, 1, (992, 3)), corners]).reshape(25, 40, 3)
    whole, step = (1 << bits) - 1, 1 << (bits - 8)
    scale = (65280 if kind == "icclab" and bits == 16 else whole) / 100, step, step
    numbers = np.rint(to_lab(rgb) * scale).astype(np.int64)
    exact = numbers / scale
    numbers[:, :, 1:] += 128 * step if kind == "icclab" else 0
    stored = (numbers & whole).astype(f"u{bits // 8}")
    found = decode_image(as_tiff(stored, photometric=kind, compression=compression), "x")
    if bits == 16:
        assert np.abs(found - rgb[:, :, ::-1]).max() < 1e-3
    shown = ((found > 0.002) & (found < 0.998)).all(axis=2)  # not clipped
    assert shown.mean() > 0.9
    assert np.abs(to_lab(found[:, :, ::-1].astype(np.float64)) - exact)[shown].max() < (0.6 if bits == 8 else 0.01)


def test_colours_in_cielab_that_the_screen_lacks_are_clipped_and_alpha_holds() -> None:
    lab = np.zeros((4, 5, 4), np.uint8)
    lab[:, :, 0], lab[:, :, 1], lab[:, :, 3] = 128, 127, 51  # a red that no screen shows
    data = as_tiff(lab, photometric="cielab", extrasamples=["unassalpha"])
    found = decode_image(data, "x")
    assert np.allclose(found[0, 0, 2], 0.2, atol=1e-6) and found[0, 0, 1] == 0
    deep = as_tiff(np.zeros((4, 5, 3), np.float32), photometric="cielab")
    assert "colours in CIELAB of 32 bits; save it as RGB" in reason(deep)


@pytest.mark.parametrize("compression", ["png", "jpegxl", "jpeg2000", "lerc", "webp"])
def test_rare_compressions_are_read_by_the_extra(compression: str) -> None:
    options: dict[str, Any] = {"compression": compression, "tile": (32, 48)}
    if compression in ("jpegxl", "jpeg2000", "webp"):
        level = {"jpegxl": {"lossless": True}, "jpeg2000": {"reversible": True, "level": 0}, "webp": {"lossless": True}}
        options["compressionargs"] = level[compression]
    assert np.array_equal(decode_image(as_tiff(COLOUR, photometric="rgb", **options), "x"), bgr(COLOUR))


@pytest.mark.parametrize("compression", ["zstd", "lzma", "zlib", "packbits", None])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_single_bits_of_any_compression_are_black_and_white(compression: str | None, white_is_zero: bool) -> None:
    marked = np.zeros((40, 56), bool)
    marked[10:20, 8:30] = True
    kind = "miniswhite" if white_is_zero else "minisblack"
    data = as_tiff(marked, photometric=kind, compression=compression)
    assert np.array_equal(decode_image(data, "x")[:, :, 0] > 0.5, ~marked if white_is_zero else marked)


@pytest.mark.parametrize("palette", [False, True])
def test_values_beyond_their_bits_are_damage(palette: bool) -> None:
    page = tiff.read_page(as_tiff(np.zeros((8, 8), np.uint8), photometric="minisblack"))
    page = page._replace(bits=4, colours=np.zeros(48, np.uint16))
    page = page._replace(photometric=tiff_colour.PALETTE) if palette else page
    with pytest.raises(Damage, match="values up to 16, and its bits end at 15"):
        tiff_colour.to_picture(np.full((8, 8, 1), 16, np.uint8), page)


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rare, "find_spec", lambda _: None)
    data = as_tiff(DEEP, photometric="rgb", compression="zstd")
    assert (
        "a TIFF of 16 bits with Zstandard compression; install what reads it: pip install 'flawmap[formats]'"
        in reason(data)
    )


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        (np.zeros((9, 9), np.int16), {}, "signed integers (int16); shift them to unsigned"),
        (np.zeros((9, 9), np.uint32), {}, "type uint32 are not supported"),
        (np.zeros((9, 9), np.complex64), {}, "complex"),
        (np.zeros((9, 9, 7), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "7 channels (multisp"),
        (
            np.zeros((9, 9), np.uint16),
            {"photometric": "cfa", "extratags": [(33421, 3, 2, (2, 2), True)]},
            "a raw photo",
        ),
        (np.full((9, 9), 7, np.float32), {}, "a floating-point image must lie in [0, 1]"),
    ],
)
def test_what_is_no_picture_in_grey_or_colour_names_the_real_reason(
    samples: Array, options: dict[str, Any], words: str
) -> None:
    assert words in reason(as_tiff(samples, **options))


# --- TIFF: pages -----------------------------------------------------------------------------------------------------


def pages(count: int, **second: Any) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(GREY, metadata=None)
        for _ in range(count - 1):
            file.write(second.pop("picture", GREY[::4, ::4].copy()), metadata=None, **second)
    return buffer.getvalue()


def test_a_mask_page_and_smaller_versions_are_no_other_images() -> None:
    assert np.array_equal(decode_image(pages(3, subfiletype=1), "x"), bgr(GREY))
    for kind in (4, 5):
        masked = pages(2, subfiletype=kind, photometric="mask", picture=GREY[::4, ::4] > 99)
        assert np.array_equal(decode_image(masked, "x"), bgr(GREY))
    assert "holds several images" in reason(pages(2))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compression", [None, "zstd", "jpeg", "png"])
def test_a_mask_or_smaller_version_may_come_before_the_image(big: bool, compression: str | None) -> None:
    plain = as_tiff(COLOUR, photometric="rgb", compression=compression)
    for kind, first in ((1, GREY[::4, ::4].copy()), (4, GREY[::4, ::4] > 99)):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer, bigtiff=big) as file:
            file.write(first, metadata=None, subfiletype=kind)
            file.write(COLOUR, metadata=None, photometric="rgb", compression=compression)
            file.write(GREY[::2, ::2].copy(), metadata=None, subfiletype=1)
        data = buffer.getvalue()
        assert np.array_equal(decode_image(data, "x"), decode_image(plain, "x"))
        assert header_of(data, "x")[1:] == (131, 96)


def test_the_image_below_a_preview_is_the_one_that_is_read() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(GREY[::4, ::4].copy(), metadata=None, subfiletype=1, subifds=1)
        file.write(COLOUR, metadata=None, photometric="rgb")
    assert np.array_equal(decode_image(buffer.getvalue(), "x"), bgr(COLOUR))
    raw = buffer.getvalue().replace(struct.pack("<HHII", 262, 3, 1, 2), struct.pack("<HHII", 262, 3, 1, 32803))
    assert "a raw photo" in reason(raw)  # as DNG has it
    alone = as_tiff(GREY, subfiletype=1)
    assert np.array_equal(decode_image(alone, "x"), bgr(GREY))


def test_a_mask_file_with_a_preview_first_is_read_by_its_own_page(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(GREY[::4, ::4].copy(), metadata=None, subfiletype=1)
        file.write((GREY < 99).astype(np.uint8) * 255, metadata=None, photometric="miniswhite")
    assert images.read_mask_pixels(tmp_path / "mask.tif").white_is_0
    assert np.array_equal(read_mask(tmp_path / "mask.tif"), GREY < 99)


def test_pages_are_counted_with_a_bound() -> None:
    assert f"more than {tiff.MAX_PAGES} pages" in reason(pages(500, subfiletype=1))


def test_pages_in_a_circle_end() -> None:
    data = bytearray(as_tiff(GREY))
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    assert "circle" in reason(bytes(data))


# --- BMP -------------------------------------------------------------------------------------------------------------


def bitmap(header: bytes, body: bytes) -> bytes:
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + body


@pytest.mark.parametrize("filling", [0, 77, 255])
def test_the_filling_byte_of_a_bitmap_is_no_alpha(filling: int) -> None:
    body = np.dstack([COLOUR[::-1, :, ::-1], np.full_like(GREY, filling)]).tobytes()
    plain = struct.pack("<IiiHHIIiiII", 40, 131, 96, 1, 32, 0, 0, 0, 0, 0, 0)
    masks = struct.pack("<IiiHHIIiiII", 40, 131, 96, 1, 32, 3, 0, 0, 0, 0, 0) + struct.pack(
        "<3I", 0xFF0000, 0xFF00, 0xFF
    )
    for header in (plain, masks):
        assert np.array_equal(decode_image(bitmap(header, body), "x"), bgr(COLOUR))


@pytest.mark.parametrize("masks", [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F), (0x1F, 0x7E0, 0xF800)])
def test_bit_fields_of_a_bitmap_are_read_by_their_masks(masks: tuple[int, int, int]) -> None:
    want, values = np.zeros((96, 131, 3), np.float32), np.zeros((96, 132), "<u2")
    for place, mask in enumerate(masks):
        low = (mask & -mask).bit_length() - 1
        part = (GREY.astype(int) + 50 * place) % ((mask >> low) + 1)
        values[:, :131] |= (part << low).astype(np.uint16)
        want[:, :, 2 - place] = part / (mask >> low)
    header = struct.pack("<IiiHHIIiiII", 40, 131, -96, 1, 16, 3, 0, 0, 0, 0, 0) + struct.pack("<3I", *masks)
    assert np.abs(decode_image(bitmap(header, values.tobytes()), "x") - want).max() < 0.51 / 255


# --- foreign files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(99), "a HEIC photo"),
        (b"GIF89a" + bytes(99), "a GIF; save it as PNG"),
        (b"%PDF-1.7" + bytes(99), "a PDF document"),
        (b"PK\x03\x04" + bytes(99), "a zip archive; unpack it"),
        (b"\0\0\0\x18ftypisom" + bytes(99), "a video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a drawing (SVG)"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(data: bytes, words: str) -> None:
    assert words in reason(data)


@pytest.mark.parametrize(
    ("form", "options", "words"),
    [
        ("TGA", {}, "a TGA image; save it as PNG"),
        ("TGA", {"compression": "tga_rle"}, "a TGA image; save it as PNG"),
        ("PCX", {}, "a PCX image; save it as PNG"),
        ("ICO", {}, "an icon (ICO); save it as PNG"),
        ("DDS", {}, "a DDS texture; save it as PNG"),
        ("SGI", {}, "an SGI image; save it as PNG"),
        ("XPM", None, "an XPM image; save it as PNG"),
        ("FITS", None, "a FITS image; save it as TIFF"),
        ("XCF", None, "a GIMP document (XCF); export it as PNG or TIFF"),
    ],
)
@pytest.mark.parametrize("picture", [COLOUR, GREY], ids=["colour", "grey"])
def test_a_picture_of_a_format_that_is_not_read_is_called_by_its_name(
    form: str, options: dict[str, Any] | None, words: str, picture: Array
) -> None:
    heads = {"XPM": b"/* XPM */\nstatic char", "FITS": b"SIMPLE  =                    T", "XCF": b"gimp xcf v011\0"}
    data = heads[form] + bytes(99) if options is None else saved(Pillow.fromarray(picture), form, **options)
    assert reason(data).startswith(f"x: it is {words}")
    bare = data.removesuffix(b"TRUEVISION-XFILE.\0")  # as writers of old have it
    assert reason(bare).startswith(f"x: it is {words}")


def test_what_only_looks_like_a_tga_is_not_called_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        assert "TGA" not in reason(b"\0" + rng.integers(0, 256, 400, np.uint8).tobytes()[1:])
    assert "not an image, or damaged at its start" in reason(bytes(500))


# --- damage ----------------------------------------------------------------------------------------------------------


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {}, "optimized": {"optimize": True}, "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
}  # fmt: skip


def pixels_start(data: bytes) -> int:
    return jpeg.facts(data).first_scan + 14


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("damage", ["zeroed", "cut out", "overwritten", "cut short and ended"])
def test_a_jpeg_with_a_piece_missing_is_damaged(kind: str, damage: str) -> None:
    picture = Pillow.fromarray(surface(300, 400))
    data = saved(picture, "JPEG", quality=90, **JPEGS[kind])
    rng = np.random.default_rng(1)
    for share in (0.3, 0.5, 0.7):
        at = pixels_start(data) + int((len(data) - pixels_start(data)) * share)
        hurt = {
            "zeroed": data[:at] + bytes(900) + data[at + 900 :],
            "cut out": data[:at] + data[at + 900 :],
            "overwritten": data[:at] + rng.integers(0, 256, 900, np.uint8).tobytes() + data[at + 900 :],
            "cut short and ended": data[:at] + b"\xff\xd9",
        }[damage]
        assert "the image is damaged" in reason(hurt)


@pytest.mark.parametrize("kind", JPEGS)
def test_trailing_bytes_padding_and_odd_headers_of_a_jpeg_are_no_damage(kind: str) -> None:
    data = saved(Pillow.fromarray(COLOUR), "JPEG", quality=90, **JPEGS[kind])
    want = decode_pixels(data, "x")
    assert images.remarks() == []
    more = data[:2] + b"\xff\xe2\0\x06MPF\0" + data[2:]
    for other, remarks in (
        (data + bytes(5000), [f"x: {limits.TRAILING}"]),
        (data + b"trailer of a camera", [f"x: {limits.TRAILING}"]),
        (data + data, [f"x: {limits.TRAILING}"]),
        (data[:-2] + bytes(300) + data[-2:], [f"x: {limits.PADDING}"]),
        (data[:-2] + b"\xff" * 300 + data[-2:], []),  # fill bytes, which belong to the mark
        (data.replace(b"JFIF\0\x01", b"JFIF\0\x02"), []),
        (more + data, []),  # other views, which the file says it holds
        (data + b"a phone's own data SEFT", []),
    ):
        assert np.array_equal(decode_pixels(other, "x"), want)
        assert images.remarks() == remarks


def test_a_sequential_jpeg_need_not_state_its_spectral_selection() -> None:
    data = saved(Pillow.fromarray(COLOUR), "JPEG", quality=90)
    at = jpeg.facts(data).first_scan + 11
    assert data[at : at + 3] == b"\x00\x3f\x00"
    assert np.array_equal(decode_pixels(data[:at] + bytes(3) + data[at + 3 :], "x"), decode_pixels(data, "x"))


def test_zeros_over_the_end_of_a_jpeg_are_no_padding() -> None:
    data = saved(Pillow.fromarray(surface(300, 400)), "JPEG", quality=90)
    assert "the image is damaged" in reason(data[:-402] + bytes(400) + data[-2:])


def test_jpegs_by_simplejpeg_and_by_opencv_are_the_same() -> None:
    for mode, options in (
        ("RGB", {}),
        ("L", {}),
        ("CMYK", {}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1}),
    ):
        data = saved(Pillow.fromarray(COLOUR).convert(mode), "JPEG", quality=88, **options)
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(decode_pixels(data, "x"), theirs)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "jpeg", "lzma"])
@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_a_tiff_whose_strips_are_cut_short_is_damaged(compression: str | None, tile: tuple[int, int] | None) -> None:
    picture = surface(300, 400)
    data = as_tiff(picture, photometric="rgb", compression=compression, tile=tile, rowsperstrip=None if tile else 40)
    page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
    tag = page.tags[325 if tile else 279]
    form = "<H" if tag.dtype == 3 else "<I"
    for number in (0, 3, len(page.dataoffsets) - 1):
        stated = bytearray(data)
        struct.pack_into(
            form, stated, tag.valueoffset + number * struct.calcsize(form), page.databytecounts[number] // 2
        )
        assert "the image is damaged" in reason(bytes(stated))
        missing = bytearray(data)
        struct.pack_into(form, missing, tag.valueoffset + number * struct.calcsize(form), 0)
        assert "the image is damaged" in reason(bytes(missing))


@pytest.mark.parametrize("compression", ["zlib", "lzma", "jpeg"])
def test_a_tiff_with_a_strip_overwritten_is_damaged(compression: str) -> None:
    data = bytearray(as_tiff(surface(300, 400), photometric="rgb", compression=compression, rowsperstrip=100))
    page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
    start, length = page.dataoffsets[1], page.databytecounts[1]
    data[start + length // 3 : start + length // 2] = bytes(length // 2 - length // 3)
    assert "the image is damaged" in reason(bytes(data))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(stream: bytes, height: int = 96, width: int = 131, before: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


ROWS = b"".join(b"\0" + row.tobytes() for row in COLOUR)


def test_a_png_with_a_wrong_checksum_or_missing_rows_is_damaged() -> None:
    stream = zlib.compress(ROWS)
    whole = png(stream)
    assert np.array_equal(decode_image(whole, "x"), bgr(COLOUR))
    at = whole.index(b"IDAT") + 4 + len(stream)
    wrong = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    for hurt in (
        wrong,
        png(zlib.compress(ROWS[: len(ROWS) // 2])),
        png(stream[: len(stream) // 2]),
        png(stream[:-4] + bytes(4)),
    ):
        assert "the image is damaged" in reason(hurt)
    assert "(a checksum is wrong)" in reason(wrong)


def test_a_png_with_a_long_text_or_trailing_bytes_is_whole() -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000)))
    assert np.array_equal(decode_image(png(zlib.compress(ROWS), before=text), "x"), bgr(COLOUR))
    assert images.remarks() == []
    for trailing in (bytes(4096), b"more"):
        assert np.array_equal(decode_image(png(zlib.compress(ROWS)) + trailing, "x"), bgr(COLOUR))
        assert images.remarks() == [f"x: {limits.TRAILING}"]


def test_trailing_bytes_of_a_webp_are_told() -> None:
    data = saved(Pillow.fromarray(COLOUR), "WEBP", lossless=True)
    for trailing, remarks in ((b"", []), (bytes(512), [f"x: {limits.TRAILING}"])):
        assert np.array_equal(decode_image(data + trailing, "x"), bgr(COLOUR))
        assert images.remarks() == remarks


def test_a_damaged_png_writes_no_line_of_a_library(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for form in ("RGB", "P", "LA", "I;16"):
        picture = Pillow.fromarray(DEEP_GREY) if form == "I;16" else Pillow.fromarray(COLOUR).convert(form)
        data = saved(picture, "PNG")
        for _ in range(60):
            at, count = int(rng.integers(8, len(data))), int(rng.integers(1, 60))
            for hurt in (data[:at] + data[at + count :], data[:at] + rng.bytes(count) + data[at + count :], data[:at]):
                if hurt != data:
                    reason(hurt)
    assert capfd.readouterr() == ("", "")


def test_chunks_that_say_nothing_of_the_pixels_are_kept_from_the_decoder(capfd: pytest.CaptureFixture[str]) -> None:
    kinds = (b"iCCP", b"tRNS", b"pHYs", b"sBIT", b"tEXt", b"zTXt", b"eXIf", b"bKGD", b"PLTE", b"gAMA", b"cHRM")
    for kind in kinds:
        assert np.array_equal(decode_image(png(zlib.compress(ROWS), before=chunk(kind, b"x")), "x"), bgr(COLOUR))
    text = chunk(b"tEXt", b"a\0b")[:-1] + b"q"
    assert np.array_equal(decode_image(png(zlib.compress(ROWS), before=text), "x"), bgr(COLOUR))
    assert "of an unknown kind" in reason(png(zlib.compress(ROWS), before=chunk(b"ABCD", b"x")))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_a_png_with_its_own_chunks_alone_gives_the_same_pixels(mode: str) -> None:
    picture = Pillow.fromarray(DEEP_GREY) if mode == "I;16" else Pillow.fromarray(COLOUR).convert(mode)
    options: dict[str, Any] = (
        {} if mode in ("LA", "RGBA", "I;16") else {"transparency": (1, 2, 3) if mode == "RGB" else 1}
    )
    data = saved(picture, "PNG", dpi=(300, 300), **options)
    want = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    found = cv2.imdecode(np.frombuffer(png_format.bare(data, png_format.facts(data)), np.uint8), cv2.IMREAD_UNCHANGED)
    assert len(png_format.bare(data, png_format.facts(data))) < len(data)
    assert np.array_equal(found, want)


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "PNG"])
def test_a_damaged_image_is_read_where_that_is_accepted_and_told(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = surface(300, 400)
    data = saved(Pillow.fromarray(picture), form, **({"compression": "tiff_adobe_deflate"} if form == "TIFF" else {}))
    at = len(data) * 3 // 4
    hurt = data[:at] + bytes(300) + data[at + 300 :]
    assert "the image is damaged" in reason(hurt)
    images.accept_damaged(True)
    read = decode_pixels(hurt, "bad.img")
    assert read.shape == (300, 400, 3)
    assert np.abs(read[:50].astype(int) - decode_pixels(data, "x")[:50]).max() == 0
    [line] = images.remarks()
    assert line.startswith("bad.img: damaged and read all the same (")


def test_remarks_on_many_files_are_one_line() -> None:
    data = as_tiff(np.dstack([COLOUR, GREY]), photometric="rgb", extrasamples=["unspecified"])
    for name in ("a.tif", "b.tif", "b.tif"):
        decode_pixels(data, name)
    assert images.remarks() == ["channels that are neither colour nor alpha were left out: 2 files, such as a.tif"]


# --- memory, told from the header ------------------------------------------------------------------------------------


def claims(width: int, height: int, form: str) -> bytes:
    data = bytearray(saved(Pillow.fromarray(COLOUR), form))
    if form == "JPEG":
        at = data.index(b"\xff\xc0")
        struct.pack_into(">HH", data, at + 5, height, width)
    else:
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_header_that_claims_more_than_its_bytes_can_hold_is_refused(form: str) -> None:
    assert "the image is damaged (12000x12000 pixels cannot lie in" in reason(claims(12000, 12000, form))


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
def test_a_tiff_that_claims_more_than_its_strips_can_hold_is_refused(compression: str | None) -> None:
    data = bytearray(as_tiff(COLOUR, photometric="rgb", compression=compression, rowsperstrip=1000))
    first = struct.unpack_from("<I", data, 4)[0]
    for entry in range(first + 2, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], 12):
        tag, kind = struct.unpack_from("<HH", data, entry)
        if tag in (256, 257, 278):
            struct.pack_into("<H" if kind == 3 else "<I", data, entry + 8, 8000)
    assert "the image is damaged" in reason(bytes(data))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_a_large_flat_picture_is_small_and_whole(form: str) -> None:
    flat = Pillow.new("RGB", (3000, 2000), (90, 90, 90))
    options = {"TIFF": {"compression": "tiff_adobe_deflate"}, "WEBP": {"lossless": True}}.get(form, {})
    assert np.unique(decode_pixels(saved(flat, form, **options), "x")).tolist() == [90]


def test_what_takes_too_much_memory_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    data = as_tiff(DEEP, photometric="rgb")
    monkeypatch.setattr(limits, "MAX_BYTES", 13 * DEEP[:, :, 0].size + 2 * len(data))
    assert decode_pixels(data, "x").shape == (96, 131, 3)
    with pytest.raises(
        ImageError, match=r"^x: 131x96 takes .* GB to decode, over the limit of .*; cut it into smaller"
    ):
        decode_image(data, "x")


def test_memory_that_is_not_there_is_a_fault_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "by_opencv", full)
    assert "does not fit into this machine's memory" in reason(png(zlib.compress(ROWS)))


def test_scans_are_counted_with_a_bound() -> None:
    data = saved(Pillow.fromarray(COLOUR), "JPEG", progressive=True)
    first = jpeg.facts(data).first_scan
    scan = data[first : first + 14] + bytes(2)
    assert f"more than {jpeg.MAX_SCANS} scans" in reason(data[:first] + scan * 200 + data[first:])


def test_a_mask_with_white_at_zero_is_read_the_right_way_round(tmp_path: Path) -> None:
    mask = np.quantile(GREY, 0.8) < GREY  # of a mask that counts from white, the smaller part is the defect
    (tmp_path / "m.tif").write_bytes(as_tiff(np.where(mask, 0, 255).astype(np.uint8), photometric="miniswhite"))
    assert np.array_equal(read_mask(tmp_path / "m.tif"), mask)


def test_the_extra_is_there() -> None:
    assert rare.reads_tiff() and imagecodecs.version()


@pytest.mark.parametrize("photometric", [10, 32844])
def test_colours_of_an_unusual_kind_are_not_taken_for_grey(photometric: int) -> None:
    tags: dict[int, int | list[int]] = {256: 131, 257: 96, 258: 8, 259: 1, 262: photometric, 277: 1, 278: 96}
    assert "unusual kind" in reason(minimal_tiff(GREY.tobytes(), "<", tags))


def test_jpeg_ls_and_jpeg_xs_are_refused_by_name() -> None:
    grey = np.arange(600, dtype=np.uint8).reshape(20, 30)
    plain = bytes(imagecodecs.jpegls_encode(grey))
    spiff = plain[:2] + b"\xff\xe8\0\x08SPIFF\0" + plain[2:]
    for data, kind in ((plain, "JPEG-LS"), (spiff, "JPEG-LS"), (b"\xff\x10\xff\x50" + bytes(40), "JPEG XS")):
        for ask in (decode_image, header_of):
            with pytest.raises(ImageError, match=f"x: it is a {kind} image; save it as PNG or TIFF"):
                ask(data, "x")
    assert kind_of_bytes(b"\xff\xd8\xff\xf7" + bytes(40)) == ("JPEG-LS image", "image")
