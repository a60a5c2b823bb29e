"""Files that another library reads, or none: DICOM, TIFFs of rare compressions, and what other files are called.

`tifffile` (with `imagecodecs`) and `pydicom` are the extra `formats`. HEIC is not read: the wheels of pillow-heif hold
x265, which is under the GPL.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from flawmap.data.formats import INSTALL, Damage, Unsupported
from flawmap.data.formats.tiff import NAMES, Page
from flawmap.data.formats.tiff_colour import by_table
from flawmap.errors import FlawmapError

Array = np.ndarray[Any, np.dtype[Any]]

_KINDS = (  # offset, mark, what it is and what to do about it
    (4, b"ftypheic", "a HEIC photo; set the phone to “most compatible” or save it as JPEG"),
    (4, b"ftypheix", "a HEIC photo; set the phone to “most compatible” or save it as JPEG"),
    (4, b"ftypmif1", "a HEIF photo; save it as JPEG or PNG"),
    (4, b"ftypmsf1", "a series of HEIF photos; save each as JPEG or PNG"),
    (4, b"ftypavif", "an AVIF image; save it as PNG or JPEG"),
    (4, b"ftypcrx ", "a raw photo (CR3); develop it to PNG or TIFF"),
    (4, b"ftyp", "a video; save single pictures of it as PNG"),
    (0, b"GIF8", "a GIF; save it as PNG"),
    (0, b"%PDF", "a PDF document; save its pictures as PNG"),
    (0, b"PK\x03\x04", "a zip archive; unpack it"),
    (0, b"Rar!", "a rar archive; unpack it"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it"),
    (0, b"\x1aE\xdf\xa3", "a video; save single pictures of it as PNG"),
    (8, b"AVI ", "a video; save single pictures of it as PNG"),
    (0, b"\xff\x0a", "a JPEG XL image; save it as PNG"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image; save it as PNG"),
    (0, b"8BPS", "a Photoshop document; save it as PNG or TIFF"),
    (0, b"\x93NUMPY", "an array of NumPy; save it as PNG or TIFF"),
    (0, b"\x89HDF", "an HDF5 file; save its pictures as PNG or TIFF"),
    (0, b"SIMPLE  =", "a FITS file; save it as TIFF"),
    (0, b"v/1\x01", "an OpenEXR image; save it as PNG or TIFF"),
    (0, b"#?RADIANCE", "a Radiance HDR image; save it as PNG or TIFF"),
    (0, b"<svg", "a drawing (SVG); save it as PNG"),
    (0, b"<!DOCTYPE html", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"),
)


def name_of(data: bytes) -> str:
    """What a file is that is not read, with what to do; "" when it is not known."""
    for at, mark, name in _KINDS:
        if data.startswith(mark, at):
            return name
    if data[:2] in (b"P7", b"PF", b"Pf") and data[2:3] in (b" ", b"\t", b"\r", b"\n", b"#"):
        return "a PAM image; save it as PNM or PNG" if data[1:2] == b"7" else "a PFM image; save it as TIFF"
    return ""


def is_dicom(data: bytes) -> bool:
    """Whether the bytes begin as those of a DICOM or DICONDE file."""
    return data[128:132] == b"DICM"


def reads_tiff() -> bool:
    """Whether the extra for rare TIFFs is installed."""
    return bool(find_spec("tifffile") and find_spec("imagecodecs"))


def tiff(data: bytes, page: Page) -> Array:
    """(H, W, samples) of a TIFF, by tifffile.

    Raises Unsupported without the extra, Damage for what cannot be decoded.
    """
    name = NAMES.get(page.compression, f"an unknown ({page.compression})")
    what = f"a TIFF of {page.bits} bits with {name} compression"
    if not reads_tiff():
        raise Unsupported(f"{what}; {INSTALL}")
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what fails is said once, by us
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            samples: Array = np.asarray(file.pages[0].asarray(maxworkers=1))
    except (ValueError, NotImplementedError) as problem:
        if (
            "cannot decompress" in str(problem)
            or isinstance(problem, NotImplementedError)
            or "requires" in str(problem)
        ):
            raise Unsupported(f"{what} is not read; save it without compression") from problem
        raise Damage(_line(problem)) from problem
    except MemoryError:
        raise
    except Exception as problem:  # each codec has errors of its own
        raise Damage(_line(problem)) from problem
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.ndim == 3 and page.separate:
        samples = np.moveaxis(samples, 0, 2)
    if samples.shape != (page.height, page.width, page.samples):
        raise Damage("its pixels are of another size than its header says")
    return samples.astype(samples.dtype.newbyteorder("="), copy=True)


def dicom(data: bytes, fits: Callable[[int, int, float, bytes], None]) -> Array:
    """(H, W) or (H, W, 3) in RGB order, white at full scale. `fits` is asked of width, height and bytes a pixel first.

    Stored values count from 0 to 2^BitsStored - 1; MONOCHROME1 and a negative RescaleSlope turn dark and bright round.
    A positive rescale changes the unit of the values, not their place between black and white.
    """
    if not find_spec("pydicom"):
        raise Unsupported(f"a DICOM file; {INSTALL}")
    import pydicom

    try:
        file = pydicom.dcmread(io.BytesIO(data))
        frames = int(file.get("NumberOfFrames", 1) or 1)
        if "PixelData" not in file:
            raise Unsupported("a DICOM file without a picture of integers")
        if frames > 1:
            raise Unsupported(f"it holds {frames} images; save each as a file of its own")
        samples = int(file.get("SamplesPerPixel", 1))
        rows, columns = int(file.Rows), int(file.Columns)
        bits, signed = int(file.BitsStored), int(file.PixelRepresentation)
        turned = (file.PhotometricInterpretation == "MONOCHROME1") != (float(file.get("RescaleSlope", 1) or 1) < 0)
        palette = file.PhotometricInterpretation == "PALETTE COLOR"
        if palette or bits > 16:
            raise Unsupported("a DICOM file with a palette or more than 16 bits; save it as PNG or TIFF")
        fits(columns, rows, samples * (2 if bits > 8 else 1) * 4, data)
        pixels: Array = np.asarray(file.pixel_array)
    except (Unsupported, MemoryError, FlawmapError):
        raise
    except (NotImplementedError, RuntimeError) as problem:
        raise Unsupported(f"a DICOM file whose compression is not read: {_line(problem)}") from problem
    except Exception as problem:  # pydicom raises many kinds on damaged files
        raise Damage(_line(problem)) from problem
    lowest, white = -(1 << bits - 1) if signed else 0, (1 << bits) - 1
    if pixels.min() < lowest or pixels.max() > lowest + white:
        raise Damage(f"its values exceed the {bits} bits that it states")
    target = np.uint8 if bits <= 8 else np.uint16
    table = np.rint(np.arange(white + 1) * (np.iinfo(target).max / white)).astype(target)
    table = np.roll(table[::-1] if turned else table, lowest)  # a negative index counts from the end
    return by_table(pixels, table)


def _line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0][:160]
