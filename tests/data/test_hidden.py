"""An alpha that hides a whole picture is left out with a remark, or refused where nothing lies under it."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from flawmap.data.arrays import pixels_of
from flawmap.data.images import decode_image, decode_pixels, remarks
from flawmap.data.masks import read_mask
from flawmap.data.remarks import collected
from flawmap.errors import ImageError

GREY = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
COLOUR = np.dstack([GREY, 255 - GREY, GREY[::-1]])
SCENE = COLOUR[:, :, ::-1].astype(np.float32) / 255
FORMS = ["png", "png16", "webp", "tiff", "tiff grey", "bmp", "bmp v3", "pam", "jp2", "palette"]
REMARK = "alpha that hides the whole picture was left out"


def file(form: str, colours: np.ndarray[Any, Any], alpha: int = 0) -> bytes:
    """The picture (H, W, 3), RGB, with the same alpha everywhere."""
    four, out = np.dstack([colours, np.full(colours.shape[:2], alpha, np.uint8)]), io.BytesIO()
    if form == "png":
        Image.fromarray(four).save(out, "PNG")
    elif form == "png16":
        return bytes(imagecodecs.png_encode(four * np.array([257, 257, 257, 1], np.uint16)))
    elif form == "webp":
        Image.fromarray(four).save(out, "WEBP", lossless=True, exact=True)
    elif form == "tiff":
        tifffile.imwrite(out, four, photometric="rgb", extrasamples=[2])
    elif form == "tiff grey":
        two = np.ascontiguousarray(four[:, :, [0, 3]])
        tifffile.imwrite(out, two, photometric="minisblack", planarconfig="contig", extrasamples=[2])
    elif form.startswith("bmp"):
        size, rows = (124 if form == "bmp" else 56), np.ascontiguousarray(four[::-1, :, [2, 1, 0, 3]])
        head = struct.pack("<IiiHHIIiiII", size, 60, 40, 1, 32, 3, rows.nbytes, 0, 0, 0, 0)
        head += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(size - 56)
        start = 14 + size
        return b"BM" + struct.pack("<IHHI", start + rows.nbytes, 0, 0, start) + head + rows.tobytes()
    elif form == "pam":
        return b"P7\nWIDTH 60\nHEIGHT 40\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + four.tobytes()
    elif form == "jp2":
        Image.fromarray(four).save(out, "JPEG2000")
    else:
        Image.fromarray(colours).quantize(256).save(out, "PNG", transparency=bytes([alpha] * 256))
    return out.getvalue()


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_the_colours_under_an_alpha_that_hides_all_are_used_with_a_remark(form: str, alpha: int) -> None:
    data = file(form, COLOUR, alpha)
    scene = np.repeat(SCENE[:, :, 2:], 3, 2) if form == "tiff grey" else SCENE
    remarks()
    with collected() as said:
        found = decode_image(data, "x")
    assert np.abs(found - scene).max() < (0.2 if form == "palette" else 0.01) and said == [REMARK]
    assert remarks() == [f"x: {REMARK}"]


def test_so_they_are_of_a_pil_image() -> None:
    remarks()
    four = Image.fromarray(np.dstack([COLOUR, np.zeros_like(GREY)]))
    with collected() as said:
        assert np.array_equal(pixels_of(four), COLOUR[:, :, ::-1]) and said == [REMARK]
    with pytest.raises(ImageError, match="nothing lies under it"):
        pixels_of(Image.new("RGBA", (8, 8)))
    remarks()


@pytest.mark.parametrize("form", [form for form in FORMS if form != "tiff grey"])
def test_a_picture_without_anything_under_its_alpha_is_refused(form: str) -> None:
    remarks()
    data = file(form, np.full_like(COLOUR, 90))
    with pytest.raises(ImageError, match="its alpha hides the whole picture, and nothing lies under it; save it"):
        decode_pixels(data, "x")
    assert not remarks()


def test_a_picture_of_which_a_little_shows_is_laid_over_black() -> None:
    alpha = np.zeros_like(GREY)
    alpha[5, 5] = 255
    out = io.BytesIO()
    Image.fromarray(np.dstack([COLOUR, alpha])).save(out, "PNG")
    found = decode_image(out.getvalue(), "x")
    assert np.count_nonzero(found.any(2)) == 1 and np.allclose(found[5, 5], SCENE[5, 5]) and not remarks()


def test_a_mask_that_marks_nothing_in_its_alpha_stays_a_mask(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(file("png", np.zeros_like(COLOUR)))
    assert not read_mask(tmp_path / "a.png").any()
