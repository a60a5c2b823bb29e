"""Damaged image files of every format: one clear line or a picture, never another exception, and no memory beyond it.

FLAWMAP_FUZZ sets how many mutations are tried (`make fuzz`: 20 000). A mutation that fails is named by its number.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image as Pillow

from flawmap.data.images import decode_image, header_of
from flawmap.errors import ImageError

Array = np.ndarray[Any, np.dtype[Any]]

MUTATIONS = int(os.environ.get("FLAWMAP_FUZZ", "300"))
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


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bits, bytes, zeros, pieces cut out or put in, an early end, large numbers."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        size = len(changed)
        at = int(rng.integers(size if rng.random() < 0.6 else min(size, 400)))
        length = int(rng.integers(1, max(2, min(300, size))))
        match int(rng.integers(7)):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at] = int(rng.integers(256))
            case 2:
                changed[at : at + length] = bytes(len(changed[at : at + length]))
            case 3:
                del changed[at : at + length]
            case 4:
                del changed[at:]
            case 5:
                changed[at:at] = rng.integers(0, 256, length, np.uint8).tobytes()
            case _:
                changed[at : at + 4] = b"\xff" * len(changed[at : at + 4])
        changed = changed or bytearray(b"x")
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")  # of libraries, on what they meet in damaged headers
@pytest.mark.parametrize("kind", seeds())
def test_a_mutated_file_is_one_line_or_a_picture(kind: str) -> None:
    whole = seeds()[kind]
    want = decode_image(whole, "x")
    for number in range(max(MUTATIONS // len(seeds()), 1)):
        data = mutated(whole, np.random.default_rng([number, len(whole)]))
        for read in (decode_image, header_of):
            try:
                found = read(data, "x")
            except ImageError as problem:
                assert str(problem).startswith("x: ") and "\n" not in str(problem), number
                continue
            except Exception as problem:
                raise AssertionError(f"mutation {number} of {kind}") from problem
            if isinstance(found, np.ndarray):
                assert found.dtype == np.float32 and 0 <= found.min() <= found.max() <= 1, number
                if kind in CHECKED and found.shape == want.shape:
                    assert np.abs(found - want).mean() < 0.02, f"mutation {number} of {kind} is taken as good"
