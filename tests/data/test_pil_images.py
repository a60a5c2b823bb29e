"""A PIL image of a file is what the file is: Pillow's own pixels serve where nothing was lost on the way alone."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from flawmap.data.arrays import pixels_of
from flawmap.data.images import read_pixels, remarks, to_float
from flawmap.data.remarks import collected
from flawmap.data.white import White
from flawmap.errors import ImageError
from flawmap.station.client import _encoded

GREY = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
GREY[10:20, 10:30] = 200
COLOUR = np.dstack([GREY, 255 - GREY, GREY[::-1]])
DEEP = COLOUR.astype(np.uint16) * 257
NIR = np.full_like(GREY, 40)
SCENE = COLOUR[:, :, ::-1].astype(np.float32) / 255

Save = Callable[[Path], Any]


def tiff(pixels: np.ndarray[Any, Any], **tags: Any) -> Save:
    return lambda path: tifffile.imwrite(path, pixels, **tags)


def packed(encode: Callable[..., bytes], *arguments: Any, **options: Any) -> Save:
    return lambda path: path.write_bytes(encode(*arguments, **options))


SPOILT: dict[str, tuple[str, Save]] = {
    "planes": ("a.tif", tiff(np.moveaxis(DEEP, -1, 0).copy(), photometric="rgb", planarconfig="separate")),
    "16-bit colours": ("a.tif", tiff(DEEP, photometric="rgb")),
    "near infrared": ("a.tif", tiff(np.dstack([COLOUR, NIR]), photometric="rgb", extrasamples=[0])),
    "white at 0": ("a.tif", tiff(65535 - DEEP[:, :, 0], photometric="miniswhite")),
    "white at 0, Deflate": ("a.tif", tiff(65535 - DEEP[:, :, 0], photometric="miniswhite", compression="zlib")),
    "PNG of 16-bit colours": ("a.png", packed(imagecodecs.png_encode, DEEP)),
    "PNG of 16 bits with alpha": (
        "a.png", packed(imagecodecs.png_encode, np.dstack([DEEP[:, :, 0], np.full_like(DEEP[:, :, 0], 65535)])),
    ),
    "JPEG 2000": ("a.jp2", packed(imagecodecs.jpeg2k_encode, DEEP, level=0, reversible=True)),
    "PGM": ("a.pgm", lambda path: path.write_bytes(b"P5 60 40 4095\n" + (DEEP[:, :, 0] >> 4).astype(">u2").tobytes())),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILT)
def test_an_opened_image_is_read_as_its_path_is(kind: str, tmp_path: Path) -> None:
    name, save = SPOILT[kind]
    save(tmp_path / name)
    expected = read_pixels(tmp_path / name)
    for load in (False, True):
        with Image.open(tmp_path / name) as image:
            if load:
                image.load()
            found = pixels_of(image)
            assert found.dtype == expected.dtype and np.array_equal(found, expected), load
    with Image.open(io.BytesIO((tmp_path / name).read_bytes())) as image:
        assert np.array_equal(pixels_of(image), expected)


def test_the_right_values_of_planes_and_of_white_at_0(tmp_path: Path) -> None:
    for kind, scene in (("planes", SCENE), ("white at 0", np.repeat(GREY[:, :, None], 3, 2) / np.float32(255))):
        SPOILT[kind][1](tmp_path / "a.tif")
        with Image.open(tmp_path / "a.tif") as image:
            assert np.abs(to_float(pixels_of(image)) - scene).max() < 1e-3


def test_12_bits_in_16_are_refused_or_read_at_their_white(tmp_path: Path) -> None:
    dark = COLOUR.astype(np.uint16) * 16
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(dark))
    with Image.open(tmp_path / "a.png") as image, pytest.raises(ImageError, match="flawmap white"):
        pixels_of(image, white=White(65535, 0.9, True))
    with Image.open(tmp_path / "a.png") as image:
        assert np.abs(to_float(pixels_of(image, white=White(4095))) - SCENE).max() < 0.005


def test_remarks_and_damage_are_those_of_the_file(tmp_path: Path) -> None:
    SPOILT["near infrared"][1](tmp_path / "a.tif")
    with collected() as said, Image.open(tmp_path / "a.tif") as image:
        pixels_of(image)
    remarks()
    assert said == ["channels that are neither colour nor alpha were left out"]
    remarks()
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    whole = buffer.getvalue()
    holed = whole[: len(whole) // 2] + whole[len(whole) // 2 + 600 :]
    (tmp_path / "holed.jpg").write_bytes(holed)
    for source in (tmp_path / "holed.jpg", io.BytesIO(holed)):
        with Image.open(source) as image, pytest.raises(ImageError, match="damaged"):
            pixels_of(image)
    for change in (Image.Image.load, lambda image: image.thumbnail((50, 50))):
        with Image.open(tmp_path / "holed.jpg") as image:
            change(image)
            with pytest.raises(ImageError, match=r"holed\.jpg: the image is damaged"):
                pixels_of(image)


@pytest.mark.parametrize("kind", [kind for kind in SPOILT if kind != "PGM"])  # Pillow's mode I is refused for itself
def test_a_changed_image_of_a_file_that_pillow_spoils_is_refused(kind: str, tmp_path: Path) -> None:
    name, save = SPOILT[kind]
    save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        image.thumbnail((30, 30))
        with pytest.raises(ImageError, match="give the file's name or its bytes, or an array") as caught:
            pixels_of(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["planes", "16-bit colours", "near infrared", "white at 0"])
def test_a_decoded_tiff_without_its_file_is_refused_by_its_tags(kind: str, tmp_path: Path) -> None:
    SPOILT[kind][1](tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        image.fp = None
        with pytest.raises(ImageError, match="PIL image: Pillow does not keep the pixels"):
            pixels_of(image)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"])
def test_what_is_changed_in_memory_stays_changed(name: str, tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        image.paste((255, 0, 0), (0, 0, 60, 20))
        painted = to_float(pixels_of(image))
        assert np.allclose(painted[:18], [0, 0, 1], atol=0.02) and np.abs(painted[22:] - SCENE[22:]).mean() < 0.02
    with Image.open(tmp_path / name) as image:
        image.thumbnail((30, 30))
        assert pixels_of(image).shape == (20, 30, 3)
        assert pixels_of(image.convert("L")).shape == (20, 30, 3)


def test_a_draft_of_a_jpeg_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    Image.fromarray(np.tile(COLOUR, (8, 8, 1))).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        image.draft("RGB", (120, 80))
        assert pixels_of(image).shape == (80, 120, 3)


def test_a_frame_that_was_chosen_is_the_one_that_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1].copy())]
    for name in ("a.tif", "a.png", "a.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with Image.open(tmp_path / name) as image:
            for number, scene in enumerate((SCENE, SCENE[::-1])):
                image.seek(number)
                assert np.abs(to_float(pixels_of(image)) - scene).mean() < 0.05, (name, number)
    with tifffile.TiffWriter(tmp_path / "deep.tif") as file:
        for _ in range(2):
            file.write(DEEP, photometric="rgb")
    with Image.open(tmp_path / "deep.tif") as image, pytest.raises(ImageError, match="Pillow does not keep"):
        image.seek(1)
        pixels_of(image)


def test_a_thumbnail_that_comes_first_is_not_taken_for_the_picture(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(COLOUR[::4, ::4].copy(), photometric="rgb", subfiletype=1)
        file.write(COLOUR, photometric="rgb", subfiletype=0)
    with Image.open(tmp_path / "a.tif") as image, pytest.raises(ImageError, match="not the picture of 60x40"):
        pixels_of(image)


def test_the_file_stays_where_it_was_read_to(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pixels_of(image)
        assert isinstance(image, ImageFile.ImageFile) and np.array_equal(np.asarray(image), COLOUR)


LOUD = """
import cv2, io, sys
import imagecodecs, numpy as np, tifffile
from flawmap.data.images import decode_image
grey = np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8)
decode_image(imagecodecs.jpeg2k_encode(np.dstack([grey] * 3), level=0, reversible=True, codecformat="j2k"), "x")
file = io.BytesIO()
tifffile.imwrite(file, grey, compression="packbits")
page = tifffile.TiffFile(io.BytesIO(file.getvalue())).pages[0]
at, size = page.dataoffsets[0], page.databytecounts[0]
broken = bytearray(file.getvalue())
broken[at + size // 2 : at + size] = bytes([0x80]) * (size - size // 2)
try:
    decode_image(bytes(broken), "x")
except Exception as problem:
    print(problem)
"""


def test_decoders_say_nothing_by_themselves_though_opencv_was_there_before() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", LOUD], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a strip or tile is corrupt or cut short" in done.stdout


def test_a_station_is_sent_the_file_behind_an_opened_image(tmp_path: Path) -> None:
    SPOILT["white at 0"][1](tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as image:
        assert _encoded(image, None) == (tmp_path / "a.tif").read_bytes()
