"""Files that another library reads, or none: TIFFs of rare compressions, and what other files are called.

`tifffile` with `imagecodecs` is in the extra `formats`. HEIC is not read: the wheels of pillow-heif hold
x265, which is under the GPL.
"""

from __future__ import annotations

import io
import logging
from importlib.util import find_spec
from typing import Any

import numpy as np

from flawmap.data.filekinds import is_pcx, is_tga
from flawmap.data.formats import INSTALL, Damage, Unsupported, jpeg
from flawmap.data.formats.tiff import NAMES, Page

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
    (0, b"\xff\x10\xff\x50", "a JPEG XS image; save it as PNG or TIFF"),
    (0, b"8BPS", "a Photoshop document; save it as PNG or TIFF"),
    (0, b"\x93NUMPY", "an array of NumPy; save it as PNG or TIFF"),
    (0, b"\x89HDF", "an HDF5 file; save its pictures as PNG or TIFF"),
    (0, b"SIMPLE  =", "a FITS image; save it as TIFF"),
    (0, b"\0\0\x01\0", "an icon (ICO); save it as PNG"),
    (0, b"DDS ", "a DDS texture; save it as PNG"),
    (0, b"\x01\xda\0\x01", "an SGI image; save it as PNG"),
    (0, b"\x01\xda\x01\x01", "an SGI image; save it as PNG"),
    (0, b"\x01\xda\0\x02", "an SGI image; save it as PNG or TIFF"),
    (0, b"\x01\xda\x01\x02", "an SGI image; save it as PNG or TIFF"),
    (0, b"gimp xcf", "a GIMP document (XCF); export it as PNG or TIFF"),
    (0, b"II\xbc", "a JPEG XR image; save it as PNG or TIFF"),
    (0, b"SDPX", "a DPX image; save it as TIFF"),
    (0, b"XPDS", "a DPX image; save it as TIFF"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster image; save it as PNG"),
    (0, b"qoif", "a QOI image; save it as PNG"),
    (0, b"farbfeld", "a farbfeld image; save it as PNG or TIFF"),
    (0, b"/* XPM */", "an XPM image; save it as PNG"),
    (0, b"AT&TFORM", "a DjVu document; save its pictures as PNG"),
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
    if data.startswith((b"\x02\0\0\0UL\x04\0", b"\x08\0\x05\0CS", b"\x08\0\x08\0CS", b"\x08\0\x16\0UI")):
        return "a DICOM file without its preamble; save it anew as a DICOM file (Part 10)"
    if data[:2] in (b"PF", b"Pf") and data[2:3] in (b" ", b"\t", b"\r", b"\n", b"#"):
        return "a PFM image; save it as TIFF"
    if data.startswith(b"\xff\xd8") and jpeg.is_ls(data):
        return "a JPEG-LS image; save it as PNG or TIFF"
    if is_pcx(data[:128]):
        return "a PCX image; save it as PNG"
    return "a TGA image; save it as PNG" if is_tga(data) else ""


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
        unread = any(words in str(problem) for words in ("cannot decompress", "requires"))
        if unread or isinstance(problem, NotImplementedError):  # raised for compressions that a codec does not know
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
    if samples.dtype == np.bool_:  # single bits
        return samples.astype(np.uint8)
    return samples.astype(samples.dtype.newbyteorder("="), copy=True)


def _line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0][:160]
