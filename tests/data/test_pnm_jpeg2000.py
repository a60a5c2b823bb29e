"""PBM, PGM, PPM and JPEG 2000: the pixels the file says at the level it says, or one line with the real reason."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image as Pillow

from flawmap.data import images
from flawmap.data.formats import jpeg2000
from flawmap.data.images import (
    SUFFIXES,
    decode_image,
    decode_pixels,
    encode_png,
    header_of,
    read_image,
    read_mask,
    read_mask_pixels,
    read_shape,
)
from flawmap.data.layouts import read_layout
from flawmap.data.white import HEAD, White, may_be_deep
from flawmap.errors import ImageError

Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(0)
COLOUR = np.asarray(  # RGB, odd sides
    Pillow.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).resize((131, 97), Pillow.Resampling.BICUBIC)
)
GREY = np.ascontiguousarray(COLOUR[:, :, 0])
SEVERAL = "the file holds several images; save each as a file of its own"


@pytest.fixture(autouse=True)
def _no_remarks_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(images.DAMAGED, "refuse")
    images.remarks()
    yield
    images.remarks()


def raw(pixels: Array, maxval: int, head: str = "{kind}\n{width} {height}\n{maxval}\n") -> bytes:
    """A raw PGM or PPM of (H, W) or (H, W, 3), RGB."""
    kind = "P5" if pixels.ndim == 2 else "P6"
    words = head.format(kind=kind, width=pixels.shape[1], height=pixels.shape[0], maxval=maxval)
    return words.encode() + pixels.astype(np.uint8 if maxval < 256 else ">u2").tobytes()


def plain(pixels: Array, maxval: int) -> bytes:
    """The same in figures."""
    head = f"{'P2' if pixels.ndim == 2 else 'P3'}\n# by hand\n{pixels.shape[1]} {pixels.shape[0]}\n{maxval}\n"
    rows = (" ".join(map(str, row)) for row in pixels.reshape(-1, 12 if pixels.size % 12 == 0 else 1).tolist())
    return head.encode() + "\n".join(rows).encode() + b"\n"


def upright(pixels: Array, white: int) -> Array:
    """RGB or grey -> (H, W, 3) float64 in [0, 1], BGR."""
    return np.repeat((pixels / white)[:, :, None], 3, 2) if pixels.ndim == 2 else (pixels / white)[:, :, ::-1]


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_pixels(data, "x")
    message = str(caught.value)
    assert message.startswith("x: ") and "\n" not in message
    return message


def jp2(pixels: Array, bits: int = 8, form: str = "jp2") -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat=form, bitspersample=bits))


# --- PBM, PGM, PPM ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("write", [raw, plain])
def test_8_bits_are_those_of_a_png_to_the_bit(picture: Array, write: Any) -> None:
    png = encode_png(picture if picture.ndim == 2 else np.ascontiguousarray(picture[:, :, ::-1]))
    found = decode_pixels(write(picture, 255), "x")
    assert found.dtype == np.uint8 and np.array_equal(found, decode_pixels(png, "x"))
    assert np.array_equal(decode_image(write(picture, 255), "x"), decode_image(png, "x"))


@pytest.mark.parametrize("maxval", [1, 3, 15, 100, 254, 256, 1000, 1023, 4095, 16383, 40000, 65534, 65535])
@pytest.mark.parametrize("write", [raw, plain])
@pytest.mark.parametrize("channels", [1, 3])
def test_full_white_is_the_maxval(maxval: int, write: Any, channels: int) -> None:
    shape = (9, 12, 3)[: 2 if channels == 1 else 3]
    values = np.random.default_rng(maxval).integers(0, maxval + 1, shape)
    values.reshape(-1)[:2] = 0, maxval
    data = write(values, maxval)
    step = 0.5 / (255 if maxval < 256 else 65535) + 1e-7
    assert np.abs(decode_image(data, "x") - upright(values, maxval)).max() <= step
    if maxval < 65535:
        assert np.abs(decode_image(data, "x", White(1023)) - upright(values, maxval)).max() <= step, "the file's counts"


def test_a_maxval_of_65535_says_nothing_as_most_programs_write_it() -> None:
    values = RNG.integers(0, 4096, (9, 12))
    values[0, 0] = 4095
    assert np.abs(decode_image(raw(values, 65535), "x", White(4095)) - upright(values, 4095)).max() < 1e-5


@pytest.mark.parametrize("kind", ["P1", "P4"])
def test_a_set_bit_is_black(kind: str) -> None:
    bits = RNG.integers(0, 2, (5, 11)).astype(np.uint8)
    figures = "\n".join("".join(map(str, row)) for row in bits)
    body = np.packbits(bits, axis=1).tobytes() if kind == "P4" else figures.encode()
    found = decode_pixels(f"{kind}\n11 5\n".encode() + body, "x")
    assert np.array_equal(found[:, :, 0], (1 - bits) * 255)


@pytest.mark.parametrize(
    "head",
    [
        "{kind} {width} {height} {maxval} ",
        "{kind}\n# GIMP\n{width} {height}\n{maxval}\n",
        "{kind}# at once\n{width}#\n\n# 7 7\n {height}\t{maxval}\n",
        "{kind}\n{width} {height}\n{maxval}# at the end\n",
        "{kind}\r\n{width} {height}\r\n{maxval}\r\n",
        "{kind}\n#" + 5000 * "long " + "\n{width} {height}\n{maxval}\n",
    ],
)
def test_comments_and_spaces_of_a_header_are_passed_over(head: str) -> None:
    for maxval in (255, 1023):
        data = raw(GREY, maxval, head)
        assert np.abs(decode_image(data, "x") - upright(GREY, maxval)).max() < 1e-5
        assert header_of(data, "x") == ("PNM", 131, 97)


def pam(pixels: Array, maxval: int, kind: str) -> bytes:
    """A PAM of (H, W, C)."""
    height, width, depth = pixels.shape
    head = f"P7\n# a comment\nHEIGHT {height}\nWIDTH {width}\nDEPTH {depth}\nMAXVAL {maxval}\nTUPLTYPE {kind}\nENDHDR\n"
    return head.encode() + pixels.astype(np.uint8 if maxval < 256 else ">u2").tobytes()


@pytest.mark.parametrize("maxval", [1, 100, 255, 4095])
def test_pam_is_read_with_its_alpha(maxval: int) -> None:
    values = np.random.default_rng(0).integers(0, maxval + 1, (9, 12, 4))
    step = (0.5 / 255 if maxval < 255 else 1e-5) + 1e-6
    for depth, kind in ((1, "GRAYSCALE"), (1, "BLACKANDWHITE"), (3, "RGB")):
        data = pam(values[:, :, :depth], maxval, kind)
        want = upright(values[:, :, 0] if depth == 1 else values[:, :, :3], maxval)
        assert np.abs(decode_image(data, "x") - want).max() <= step
        assert header_of(data, "x") == ("PNM", 12, 9)
    for depth, kind in ((2, "GRAYSCALE"), (4, "RGB")):
        want = upright(values[:, :, 0] if depth == 2 else values[:, :, :3], maxval)
        alpha = values[:, :, depth - 1 : depth] / maxval
        found = decode_image(pam(values[:, :, :depth], maxval, f"{kind}_ALPHA"), "x")
        assert np.abs(found - want * alpha).max() <= 2 * step
        assert not images.remarks()
        assert np.abs(decode_image(pam(values[:, :, :depth], maxval, kind), "x") - want).max() <= step
        assert images.remarks() == ["x: channels that are neither colour nor alpha were left out"]


def test_several_pictures_in_one_file_are_refused_and_trailing_bytes_are_not() -> None:
    one = raw(GREY, 255)
    assert SEVERAL in reason(one + one) and SEVERAL in reason(one + b"\n" + one)
    assert SEVERAL in reason(plain(GREY, 255) + plain(GREY, 255))
    for rest in (b"\n", bytes(512), b"made by a camera"):
        assert np.array_equal(decode_pixels(one + rest, "x"), decode_pixels(one, "x"))


@pytest.mark.parametrize("write", [raw, plain])
def test_a_raster_cut_short_is_truncated(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(np.full((20, 30), 99), 1023)
    for cut in (len(data) // 2, len(data) - 4):
        assert reason(data[:cut]) == "x: the image is truncated; copy it again or remove it"
    monkeypatch.setenv(images.DAMAGED, "accept")
    found = decode_image(data[: len(data) // 2], "x")
    assert found[0].min() > 0 and found[-1].max() == 0
    assert images.remarks() == ["x: damaged and read all the same (truncated)"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (raw(np.full((4, 4), 200), 100), "its values exceed the maxval 100 that it states"),
        (raw(np.full((4, 4), 5000), 4095), "its values exceed the maxval 4095 that it states"),
        (plain(np.full((4, 4), 5000), 4095), "its values exceed the maxval 4095 that it states"),
        (plain(np.full((4, 4), 5000), 200), "its values exceed the maxval 200 that it states"),
        (b"P2 4 1 255\n" + b"9" * 30 + b" 1 1 1", "its values exceed the maxval 255 that it states"),
        (b"P5 4 4 0\n" + bytes(16), "its maxval is 0, where 1 to 65535 can be"),
        (b"P5 4 4 70000\n" + bytes(64), "its maxval is 70000, where 1 to 65535 can be"),
        (b"P5 4 4", "its header is cut short or no number"),
        (b"P5 4 4 255", "its header is cut short or no number"),
        (b"P5 4 four 255\n" + bytes(16), "its header is cut short or no number"),
        (b"P5 0 4 255\n" + bytes(16), "it states no size"),
        (b"P2 2 2 255\n1 2 x 4 5 6 7", "its raster holds what is no number"),
        (b"P1 2 2\n0 2 1 1", "its values are not 0 or 1"),
        (b"P5 9000 9000 255\n" + bytes(99), "the image is truncated"),
        (b"P2 9000 9000 255\n" + b"1 " * 99, "the image is truncated"),
        (b"P6 99999 99999 255\n", "99999x99999 is over the limit of 200000000 pixels"),
        (b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 1\nMAXVAL 255\nENDHDR\n", "the image is truncated"),
        (b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 1\nENDHDR\n" + bytes(16), "its header is cut short or no number"),
        (b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 1\nMAXVAL 255\n" + bytes(16), "its header is cut short or no number"),
        (b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 7\nMAXVAL 255\nENDHDR\n" + bytes(112), "it has 7 channels (multispectral)"),
        (b"Pf\n4 4\n-1.0\n" + bytes(64), "it is a PFM image; save it as TIFF"),
        (b"P5 is the name of a road", "not an image"),
    ],
)  # fmt: skip
def test_what_a_pnm_does_not_hold_is_told(data: bytes, words: str) -> None:
    assert words in reason(data)


def test_a_mask_as_pgm_or_pbm_marks_what_it_says(tmp_path: Path) -> None:
    defect = np.zeros((40, 50), bool)
    defect[10:15, 20:30] = True
    file = tmp_path / "a.pgm"
    for maxval in (1, 100, 255, 4095, 65535):
        file.write_bytes(raw(defect * maxval, maxval))
        assert np.array_equal(read_mask(file), defect)
    soft = np.linspace(0, 4095, 2000).reshape(40, 50).astype(int)
    file.write_bytes(raw(soft, 4095))
    assert np.array_equal(read_mask(file), soft > 4095 / 2), "half of full scale is half of the maxval"
    classes = np.zeros((40, 50), int)
    classes[5:20, 5:20], classes[25:35, 25:45] = 1, 2
    file.write_bytes(raw(classes, 5))
    assert np.array_equal(read_mask(file), classes > 0)
    assert np.array_equal(read_mask_pixels(file).colours, classes), "the numbers are those of the file"
    for drawn in (defect, ~defect):  # the smaller part: a bitmap counts from white
        file.write_bytes(b"P4\n50 40\n" + np.packbits(drawn, axis=1).tobytes())
        assert np.array_equal(read_mask(file), defect)


# --- JPEG 2000 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("picture", [GREY, COLOUR], ids=["grey", "colour"])
def test_8_bits_of_jpeg_2000_are_those_of_a_png(form: str, picture: Array) -> None:
    png = encode_png(picture if picture.ndim == 2 else np.ascontiguousarray(picture[:, :, ::-1]))
    data = jp2(picture, form=form)
    assert np.array_equal(decode_pixels(data, "x"), decode_pixels(png, "x"))
    assert header_of(data, "x") == ("JPEG2000", 131, 97)


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [1, 4, 7, 9, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_full_white_is_that_of_its_precision(form: str, bits: int, channels: int) -> None:
    shape = (33, 45, 3)[: 2 if channels == 1 else 3]
    values = np.random.default_rng(bits).integers(0, 1 << bits, shape).astype(np.uint8 if bits < 9 else np.uint16)
    values.reshape(-1)[:2] = 0, (1 << bits) - 1
    found = decode_image(jp2(values, bits, form), "x")
    assert np.abs(found - upright(values, (1 << bits) - 1)).max() <= (0.5 / 255 if bits < 8 else 1e-5)


def test_alpha_of_jpeg_2000_is_laid_over_black_and_another_channel_left_out() -> None:
    alpha = np.full((97, 131), 128, np.uint8)
    alpha[:50] = 255
    for mode, picture in (("RGBA", COLOUR), ("LA", GREY)):
        buffer = io.BytesIO()
        Pillow.fromarray(np.dstack([picture, alpha]), mode).save(buffer, "JPEG2000")
        want = upright(picture, 255) * (alpha / 255)[:, :, None]
        assert np.abs(decode_image(buffer.getvalue(), "x") - want).max() < 1e-6
    assert not images.remarks()
    for picture in (np.dstack([COLOUR, alpha]), np.dstack([GREY, alpha])):
        found = decode_image(jp2(picture, form="j2k"), "x")
        kept = picture[:, :, :3] if picture.shape[2] == 4 else picture[:, :, 0]
        assert np.abs(found - upright(kept, 255)).max() < 1e-6
        assert images.remarks() == ["x: channels that are neither colour nor alpha were left out"]


def test_luma_and_chroma_of_jpeg_2000_come_in_as_rgb() -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(COLOUR).convert("YCbCr").save(buffer, "JPEG2000")
    assert np.abs(decode_image(buffer.getvalue(), "x") - upright(COLOUR, 255)).max() < 0.02


def siz(data: bytes, offset: int, new: bytes) -> bytes:
    at = data.find(b"\xff\x4f\xff\x51") + offset
    return data[:at] + new + data[at + len(new) :]


def test_kinds_of_jpeg_2000_that_are_not_read_are_told() -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(GREY).save(buffer, "JPEG2000", signed=True)
    assert "its values are signed integers; shift them to unsigned 8 or 16 bits" in reason(buffer.getvalue())
    whole = jp2(COLOUR)
    deep = siz(whole, 42, b"\x13" + b"\1\1\x13" * 2)
    assert "its values are integers of 20 bits; scale them to 16 bits" in reason(deep)
    assert "its channels differ in depth" in reason(siz(whole, 42, b"\x0b"))
    assert "its colours are stored at fewer pixels" in reason(siz(whole, 46, b"\x02\x02"))
    colour = whole.find(b"colr") + 7
    assert "of an unusual kind (colour space 12); save it as RGB" in reason(
        whole[:colour] + (12).to_bytes(4, "big") + whole[colour + 4 :]
    )
    assert "2 channels of 12 bits in JPEG 2000" in reason(jp2(np.zeros((9, 9, 2), np.uint16), 12))
    stream = whole.find(b"jp2c") - 4
    box = (len(whole) - stream).to_bytes(4, "big") + whole[stream + 4 :]
    assert SEVERAL in reason(whole[:stream] + box + box)
    movie = whole.replace(b"ftypjp2 ", b"ftypmjp2")
    assert "it is a video (Motion JPEG 2000)" in reason(movie)


@pytest.mark.parametrize("form", ["jp2", "j2k"])
def test_jpeg_2000_cut_short_is_damaged(form: str) -> None:
    whole = jp2(COLOUR, form=form)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert "the image is" in reason(whole[: int(share * len(whole))]) and "it again" in reason(whole[:-9])
    for rest in (b"\n", bytes(99)):
        assert np.array_equal(decode_pixels(whole + rest, "x"), decode_pixels(whole, "x")) or form == "jp2"
    start = whole.find(b"\xff\x93") + 40
    assert "the image is truncated" in reason(whole[:start] + whole[start + 200 :]), "a piece cut out"


def test_a_header_of_jpeg_2000_that_claims_much_is_refused_before_decoding() -> None:
    whole = jp2(GREY, form="j2k")
    large = siz(whole, 8, (14000).to_bytes(4, "big") * 2 + bytes(8) + (14000).to_bytes(4, "big") * 2)
    assert "14000x14000 takes 1.8 GB to decode, over the limit of 1.5" in reason(large)
    tiled = siz(whole, 24, (1).to_bytes(4, "big") * 2)
    assert "the image is truncated" in reason(tiled), "12707 tiles of which one is there"
    assert "it states 1000000 tiles" in reason(
        siz(whole, 8, (1000).to_bytes(4, "big") * 2 + bytes(8) + (1).to_bytes(4, "big") * 2)
    )
    cod = whole.find(b"\xff\x52")
    layers = whole[: cod + 6] + b"\xff\xff" + whole[cod + 8 :]
    assert "65535 packets cannot lie in" in reason(layers)


def test_boxes_and_parts_of_tiles_are_counted_with_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jp2(GREY)
    many = whole[:32] + (b"\0\0\0\x08free") * 101 + whole[32:]
    assert np.array_equal(decode_pixels(many, "x"), decode_pixels(whole, "x"))
    monkeypatch.setattr(jpeg2000, "MAX_PIECES", 100)
    assert "it holds more than 100 boxes; save it anew" in reason(many)
    head = whole.find(b"jp2h") + 4
    assert "it holds more than 100 boxes" in reason(
        whole[: head - 8] + (45 + 808).to_bytes(4, "big") + b"jp2h" + b"\0\0\0\x08free" * 101 + whole[head:]
    )
    bare = jp2(GREY, form="j2k")
    at = bare.find(b"\xff\x90")
    empty = b"\xff\x90\0\x0a\0\0\0\0\0\x0e\0\0\xff\x93"
    assert "it holds more than 100 parts of tiles" in reason(bare[:at] + empty * 120 + bare[at:])


# --- wherever images are read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 12])
def test_whether_they_are_deep_is_told_by_their_first_bytes(bits: int) -> None:
    values = np.zeros((97, 131), np.uint8 if bits == 8 else np.uint16)
    for data in (
        raw(values, (1 << bits) - 1),
        plain(values, (1 << bits) - 1),
        jp2(values, bits),
        jp2(values, bits, "j2k"),
    ):
        assert may_be_deep(data[:HEAD]) == (bits > 8)
    assert may_be_deep(b"P5\n#" + bytes(5000)), "in doubt"


def test_they_are_images_of_a_folder_like_others(tmp_path: Path) -> None:
    files = {
        "a.pgm": raw(GREY, 255), "b.PPM": raw(COLOUR, 255), "c.pbm": b"P4\n16 1\n\x0f\x0f", "d.pnm": raw(GREY, 4095),
        "e.jp2": jp2(COLOUR), "f.j2k": jp2(GREY, form="j2k"), "g.jpx": jp2(GREY), "h.jpf": jp2(GREY),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert (tmp_path / name).suffix.lower() in SUFFIXES
        assert read_shape(tmp_path / name) == read_image(tmp_path / name).shape[:2]
    listing = read_layout(tmp_path)
    assert sorted(sample.image.name for sample in listing.samples) == sorted(files) and not listing.passed_over
