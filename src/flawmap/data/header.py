"""What an image file is and how large, by its content; nothing is decoded."""

from __future__ import annotations

from typing import NamedTuple

from PIL import UnidentifiedImageError

from flawmap.data.by_pillow import opened
from flawmap.data.decoding import damaged, foreign, is_tiff
from flawmap.data.formats import Damage, Unsupported, bmp, dicom, jpeg2000, png, pnm, tiff
from flawmap.errors import ImageError


class Header(NamedTuple):
    """What a file says of itself at its start, the size in pixels as stored.

    kind: `PNG`, `JPEG`, `MPO`, `BMP`, `TIFF`, `WEBP`, `PNM`, `JPEG2000` or `DICOM`
    """

    kind: str
    width: int
    height: int


def header_of(data: bytes, name: str) -> Header:
    """The header of an image file, by its content; nothing is decoded. Raises ImageError when it is no image."""
    try:
        if dicom.is_dicom(data):
            return Header("DICOM", *dicom.size(data))
        if is_tiff(data):
            page = tiff.read_page(data)
            return Header("TIFF", page.width, page.height)
        if data.startswith(png.MARK):
            return Header("PNG", *png.size(data))
        if data.startswith(b"BM"):
            return Header("BMP", *bmp.facts(data)[:2])
        if pnm.is_pnm(data):
            return Header("PNM", *pnm.facts(data)[:2])
        if jpeg2000.is_jpeg2000(data):
            return Header("JPEG2000", *jpeg2000.size(data))
        with opened(data) as header:
            return Header(str(header.format), *header.size)
    except Unsupported as problem:
        raise ImageError(f"{name}: {problem}") from problem
    except Damage as problem:
        raise damaged(name, str(problem)) from problem
    except UnidentifiedImageError as problem:
        raise foreign(data, name, "not an image") from problem
    except Exception as problem:  # Pillow raises many kinds on damaged headers; each means the same here
        raise damaged(name, type(problem).__name__) from problem
