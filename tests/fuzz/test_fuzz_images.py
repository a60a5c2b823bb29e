"""Damaged image files of every format: one clear line or a picture, no other exception, no memory beyond the bound."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from mutations import changed_bytes, held_to_bounds, mutations
from PIL import Image as Pillow

from flawmap.data.images import decode_image, header_of
from flawmap.errors import ImageError

Array = np.ndarray[Any, np.dtype[Any]]

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"  # shipped with pydicom
CHECKED = ("png", "png grey", "tif deflate", "tif lzma")  # every byte of the pixels is under a checksum


def surface() -> Array:
    rng = np.random.default_rng(0)
    coarse = Pillow.fromarray(rng.integers(30, 220, (6, 8, 3), np.uint8)).resize((131, 96), Pillow.Resampling.BICUBIC)
    smooth = np.asarray(coarse, np.int16)
    return np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def by_pillow(form: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(surface()).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def by_tifffile(samples: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **{"photometric": "rgb", **options})
    return buffer.getvalue()


def seeds() -> dict[str, bytes]:
    """A whole file of each kind."""
    deep = surface().astype(np.uint16) * 257
    return {
        "png": by_pillow("PNG"),
        "png grey": by_pillow("PNG", "L"),
        "png palette": by_pillow("PNG", "P"),
        "png alpha": by_pillow("PNG", "RGBA"),
        "jpeg": by_pillow("JPEG", quality=90),
        "jpeg grey": by_pillow("JPEG", "L"),
        "jpeg progressive": by_pillow("JPEG", progressive=True),
        "jpeg cmyk": by_pillow("JPEG", "CMYK"),
        "bmp": by_pillow("BMP"),
        "bmp palette": by_pillow("BMP", "P"),
        "webp": by_pillow("WEBP"),
        "webp lossless": by_pillow("WEBP", lossless=True),
        "tif": by_tifffile(surface(), rowsperstrip=20),
        "tif lzw": by_tifffile(surface(), compression="lzw", rowsperstrip=20),
        "tif lzw tiles": by_tifffile(deep, compression="lzw", tile=(32, 32), predictor=True),
        "tif deflate": by_tifffile(surface(), compression="zlib", rowsperstrip=20),
        "tif lzma": by_tifffile(surface(), compression="lzma", rowsperstrip=20),
        "tif packbits": by_tifffile(surface(), compression="packbits"),
        "tif jpeg": by_tifffile(surface(), compression="jpeg", rowsperstrip=16),
        "tif zstd": by_tifffile(surface(), compression="zstd"),
        "tif planes": by_tifffile(np.moveaxis(deep, 2, 0).copy(), planarconfig="separate"),
        "tif fax": by_pillow("TIFF", "1", compression="group4"),
        "tif palette": by_pillow("TIFF", "P"),
        "tif cmyk": by_pillow("TIFF", "CMYK"),
        "ppm": by_pillow("PPM"),
        "pgm 12 bits": b"P5\n131 96\n4095\n" + (surface()[:, :, 0].astype(np.uint16) * 16).byteswap().tobytes(),
        "pgm plain": b"P2\n131 96\n255\n" + b"\n".join(b"%d" % value for value in surface()[:, :, 0].ravel()),
        "pam": b"P7\nWIDTH 131\nHEIGHT 96\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + surface().tobytes(),
        "pbm": by_pillow("PPM", "1"),
        "jp2": by_pillow("JPEG2000"),
        "jp2 grey": by_pillow("JPEG2000", "L", irreversible=True, tile_size=(64, 64), quality_layers=[20, 5]),
        "dicom": (SAMPLES / "MR_small.dcm").read_bytes(),
        "dicom jpeg-ls": (SAMPLES / "MR_small_jpeg_ls_lossless.dcm").read_bytes(),
        "dicom rle": (SAMPLES / "SC_rgb_rle.dcm").read_bytes(),
        "dicom jpeg": (SAMPLES / "SC_rgb_small_odd_jpeg.dcm").read_bytes(),
        "tif lab": by_tifffile(surface(), photometric="cielab"),
        "j2k": by_pillow("JPEG2000", "RGBA", no_jp2=True),
    }


@pytest.mark.filterwarnings("ignore")  # of libraries, on what they meet in damaged headers
@pytest.mark.parametrize("kind", seeds())
def test_a_mutated_file_is_one_line_or_a_picture(kind: str) -> None:
    whole = seeds()[kind]
    want = decode_image(whole, "x")
    for number in range(mutations("images", len(seeds()))):
        name = f"mutation {number} of {kind}"
        data = changed_bytes(whole, random.Random(f"{kind} {number}"))
        for read in (decode_image, header_of):
            with held_to_bounds(name):
                try:
                    found = read(data, "x")
                except ImageError as problem:
                    assert str(problem).startswith("x: "), name
                    raise
                if isinstance(found, np.ndarray):
                    assert found.dtype == np.float32 and 0 <= found.min() <= found.max() <= 1, name
                    if kind in CHECKED and found.shape == want.shape:
                        assert np.abs(found - want).mean() < 0.02, f"{name} is taken as good"
