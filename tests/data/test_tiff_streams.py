"""TIFFs whose strips are files of another format: the picture inside is the one that the TIFF states, or is refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from flawmap.data import images
from flawmap.data.formats import Damage, Unsupported, rare, tiff, tiff_streams
from flawmap.data.images import decode_image
from flawmap.errors import ImageError

Array = np.ndarray[Any, np.dtype[Any]]
Encoder = Callable[[Array], bytes]


@pytest.fixture(autouse=True)
def _no_remarks_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(images.DAMAGED, "refuse")
    images.remarks()
    yield
    images.remarks()


def _colour(height: int = 48, width: int = 64) -> Array:
    down, across = np.mgrid[:height, :width]
    return np.stack([down * 3 + across, across * 2, 200 - down], axis=2).astype(np.uint8)


CODECS: dict[str, tuple[int, Encoder]] = {
    "JPEG": (7, lambda picture: imagecodecs.jpeg8_encode(picture, level=95)),
    "JPEG 2000": (34712, lambda picture: imagecodecs.jpeg2k_encode(picture, level=0)),
    "JP2 file": (34712, lambda picture: imagecodecs.jpeg2k_encode(picture, level=0, codecformat="jp2")),
    "JPEG XL": (50002, lambda picture: imagecodecs.jpegxl_encode(picture, lossless=True)),
    "JPEG XL, lossy": (52546, lambda picture: imagecodecs.jpegxl_encode(picture, level=95, lossless=False)),
    "JPEG XL in boxes": (50002, lambda picture: imagecodecs.jpegxl_encode(picture, usecontainer=True)),
    "JPEG XR": (34934, imagecodecs.jpegxr_encode),
    "JPEG XR of Hamamatsu": (22610, imagecodecs.jpegxr_encode),
    "PNG": (34933, imagecodecs.png_encode),
    "WebP": (50001, lambda picture: imagecodecs.webp_encode(picture, lossless=True)),
    "WebP, lossy": (50001, lambda picture: imagecodecs.webp_encode(picture, level=95)),
    "LERC": (34887, imagecodecs.lerc_encode),
    "LERC in Deflate": (34887, lambda picture: zlib.compress(imagecodecs.lerc_encode(picture))),
    "LERC in Zstandard": (34887, lambda picture: imagecodecs.zstd_encode(imagecodecs.lerc_encode(picture))),
}
LERC_INSIDE = {"LERC in Deflate": 1, "LERC in Zstandard": 2}


def wrapped(codec: str, streams: list[bytes], picture: Array, rows: int, tile: tuple[int, int] | None = None) -> bytes:
    """A TIFF that states the size of `picture`, with these strips or tiles."""
    buffer = io.BytesIO()
    compression, samples = CODECS[codec][0], 3 if picture.ndim == 3 else 1
    tags: dict[int, list[int]] = {
        256: [picture.shape[1]], 257: [picture.shape[0]], 258: [8 * picture.itemsize] * samples, 259: [compression],
        262: [2 if samples == 3 else 1], 277: [samples],
    }  # fmt: skip
    if tile is None:
        tags |= {278: [rows]}
    else:
        tags |= {322: [tile[1]], 323: [tile[0]]}
    starts = np.cumsum([0, *map(len, streams)])[:-1] + 8
    tags |= {273 if tile is None else 324: starts.tolist(), 279 if tile is None else 325: [len(one) for one in streams]}
    if codec in LERC_INSIDE:
        tags[50674] = [4, LERC_INSIDE[codec]]
    body = b"".join(streams)
    directory = 8 + len(body)
    at, entries, lists = directory + 2 + 12 * len(tags) + 4, b"", b""
    for tag in sorted(tags):
        raw = np.asarray(tags[tag], "<u4").tobytes()
        entries += struct.pack("<HHI", tag, 4, len(raw) // 4)
        entries += raw if len(raw) == 4 else struct.pack("<I", at + len(lists))
        lists += raw if len(raw) > 4 else b""
    buffer.write(struct.pack("<2sHI", b"II", 42, directory) + body + struct.pack("<H", len(tags)) + entries)
    return buffer.getvalue() + bytes(4) + lists


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "x")
    return str(caught.value)


def strips(codec: str, picture: Array, rows: int) -> list[bytes]:
    encode = CODECS[codec][1]
    return [encode(np.ascontiguousarray(picture[top : top + rows])) for top in range(0, len(picture), rows)]


@pytest.mark.parametrize("codec", CODECS)
def test_strips_of_the_stated_size_are_read(codec: str) -> None:
    for picture in (_colour(), _colour()[:, :, 0].copy()):
        if picture.ndim == 2 and "WebP" in codec:
            continue
        rows = 20  # the last strip is lower
        found = decode_image(wrapped(codec, strips(codec, picture, rows), picture, rows), "x")
        shown = picture[:, :, ::-1] if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, 2)
        lossy = codec == "JPEG" or "lossy" in codec
        assert np.abs(found - shown / np.float32(255)).max() < (0.2 if lossy else 0.005), codec


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "LERC in Zstandard"])
def test_tiles_of_the_stated_size_are_read_and_others_refused(codec: str) -> None:
    picture = _colour(40, 64)
    whole = np.pad(picture, ((0, 24), (0, 0), (0, 0)), mode="edge")
    tiles = [
        CODECS[codec][1](np.ascontiguousarray(whole[top : top + 32, left : left + 32]))
        for top in (0, 32) for left in (0, 32)
    ]  # fmt: skip
    assert decode_image(wrapped(codec, tiles, picture, 0, (32, 32)), "x").shape == (40, 64, 3)
    tiles[1] = CODECS[codec][1](np.ascontiguousarray(whole[:48, :32]))
    assert "another size than its picture inside" in reason(wrapped(codec, tiles, picture, 0, (32, 32)))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("lie", ["twice the rows", "half the size", "turned", "one row more", "twice the columns"])
def test_a_strip_that_holds_a_picture_of_another_size_is_refused_before_it_is_decoded(
    codec: str, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = _colour()
    inside = {
        "twice the rows": np.vstack([picture, picture]),
        "half the size": picture[::2, ::2],
        "turned": picture.transpose(1, 0, 2),
        "one row more": np.vstack([picture, picture[:1]]),
        "twice the columns": np.hstack([picture, picture]),
    }[lie]
    data = wrapped(codec, [CODECS[codec][1](np.ascontiguousarray(inside))], picture, len(picture))
    monkeypatch.setattr(rare, "tiff", lambda *_: pytest.fail("decoded"))
    assert "another size than its picture inside" in reason(data)


def test_the_last_strip_may_be_as_high_as_the_others() -> None:
    picture = _colour()
    whole = np.vstack([picture, picture[-12:]])
    for codec in ("JPEG", "PNG", "JPEG 2000", "JPEG XL"):
        found = decode_image(wrapped(codec, strips(codec, whole, 20), picture, 20), "x")
        assert found.shape == (48, 64, 3), codec


def test_sixteen_bits_in_a_tiff_of_eight_are_refused() -> None:
    deep = _colour().astype(np.uint16) * 257
    for codec in ("PNG", "JPEG 2000", "JPEG XL", "LERC"):
        data = wrapped(codec, [CODECS[codec][1](deep)], _colour(), 48)
        assert "another depth than its picture inside" in reason(data), codec
        assert decode_image(wrapped(codec, [CODECS[codec][1](deep)], deep, 48), "x").max() > 0.7, codec


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "JPEG"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.9, 0.99])
def test_strips_that_are_cut_short_are_refused(codec: str, share: float) -> None:
    rng = np.random.default_rng(0)
    picture = np.clip(_colour() + rng.integers(0, 30, (48, 64, 3)), 0, 255).astype(np.uint8)
    stream = CODECS[codec][1](picture)
    assert reason(wrapped(codec, [stream[: int(share * len(stream))]], picture, 48)).startswith("x: ")


def test_jpeg_xr_that_does_not_say_how_long_it_is_is_refused_in_words() -> None:
    picture = _colour()
    stream = imagecodecs.jpegxr_encode(picture)
    at = stream.find(struct.pack("<HHI", 0xBCC1, 4, 1)) + 8
    unknown = stream[:at] + bytes(4) + stream[at + 4 :]
    assert "of which it is not known whether they are whole" in reason(wrapped("JPEG XR", [unknown], picture, 48))
    bare = stream[stream.find(b"WMPHOTO") :]
    assert "without a header" in reason(wrapped("JPEG XR", [bare], picture, 48))


def test_a_tile_that_is_far_larger_than_the_picture_is_refused_by_its_size() -> None:
    data = wrapped("PNG", [imagecodecs.png_encode(_colour())], _colour(), 0, (40000, 40000))
    assert "40000x40000" in reason(data)


def test_cut_anywhere_a_header_ends_in_damage() -> None:
    picture = _colour()
    for codec in CODECS:
        stream = CODECS[codec][1](picture)
        for length in range(1, min(len(stream), 160)):
            data = wrapped(codec, [stream[:length]], picture, 48)
            with pytest.raises((Damage, Unsupported)):
                tiff_streams.check(data, tiff.read_page(data))
                raise Damage("left to the decoder")


def test_files_by_tifffile_are_taken_as_they_are() -> None:
    picture = _colour(100, 130)
    for compression in ("jpeg", "jpeg2000", "jpegxl", "jpegxr", "png", "webp", "lerc"):
        for options in ({"rowsperstrip": 33}, {"tile": (32, 48)}, {}):
            buffer = io.BytesIO()
            tifffile.imwrite(buffer, picture, photometric="rgb", compression=compression, **options)  # type: ignore[arg-type]
            assert decode_image(buffer.getvalue(), "x").shape == (100, 130, 3), (compression, options)
