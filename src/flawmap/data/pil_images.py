"""PIL images as pixels: of one that was opened from a file and not changed, the file is read as its path would be.

Pillow cuts 16-bit colours to 8 bits, puts planes of 16 bits together wrongly, does not invert 16 bits that count from
white, takes any fourth channel for alpha and is silent about a piece that is missing in a JPEG. Its own pixels are used
for what was computed in memory (`convert`, `resize`, `crop`, `paste`) alone; where the file behind such an image can
still be found, it must be one that Pillow reads right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile, ImageOps

from flawmap.data.by_pillow import opened
from flawmap.data.formats import Damage, Unsupported, tiff
from flawmap.data.images import Stored, decode_pixels, over_black, to_float
from flawmap.data.white import White, at_white
from flawmap.errors import ImageError

FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")  # Pillow's names of what flawmap reads
ALIKE = 0.02  # mean difference, in [0, 1], up to which Pillow reads a file as flawmap does
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_PLAIN = ("1", "L", "F", *_SIXTEEN)
_KNOWN = (*_PLAIN, "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")


def pixels_of_pil(image: Pillow.Image, white: White) -> Stored:
    """A PIL image as pixels (H, W, 3), BGR, as `pixels_of`. Raises ImageError."""
    name = name_of_pil(image)
    data = file_behind(image)
    if data is not None:
        return decode_pixels(data, name, white)
    return at_white(decoded_by_pil(image), white, name)


def name_of_pil(image: Pillow.Image) -> str:
    """What messages call it: its file where there is one."""
    return str(getattr(image, "filename", "") or "PIL image")


def file_behind(image: Pillow.Image) -> bytes | None:
    """The bytes of the file that a PIL image shows, whole and unchanged; None where it was made or changed in memory.

    Raises ImageError for an image that was changed after Pillow spoilt what its file holds, and where the file's
    picture is another page than the one shown.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.format not in FORMATS:
        return None
    data = _bytes_behind(image)
    if data is not None and not _one_of_several(image, data):
        if _unchanged(image, data):
            _check_page(image, data)
            return data
        _check_alike(image, data)
    _check_tags(image)
    return None


def _bytes_behind(image: ImageFile.ImageFile) -> bytes | None:
    """The file that Pillow opened: the one it still reads from, or of a decoded image the one of its name."""
    if image.fp is not None:
        try:
            at = image.fp.tell()
            image.fp.seek(0)
            data = image.fp.read()
            image.fp.seek(at)
        except (OSError, ValueError, AttributeError):  # closed, or no file that can go back
            return None
        return data if isinstance(data, bytes) and data else None
    if image.tile or not image.filename:
        return None
    try:
        return Path(str(image.filename)).read_bytes() or None
    except (OSError, ValueError):
        return None


def _one_of_several(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether the image is one of a file's frames, so that it is chosen already."""
    if image.tell() != 0:
        return True
    if image.format == "TIFF":
        try:
            return tiff.read_page(data).others > 0
        except Unsupported:
            return True
        except Damage:  # told by who decodes it
            return False
    return image.format in ("PNG", "WEBP") and bool(getattr(image, "is_animated", False))


def _unchanged(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether the image is as Pillow opens the file anew: by its header before it is decoded, else by its pixels."""
    try:
        with opened(data, FORMATS) as fresh:
            if _header(image) != _header(fresh):
                return False
            if image.tile:  # not decoded yet
                return True
            try:
                theirs = fresh.tobytes()
            except Exception:  # Pillow raises many kinds on damaged files, which flawmap tells by itself
                return True
            return image.tobytes() == theirs and image.getpalette() == fresh.getpalette()
    except Exception:  # as before; also a file that was replaced meanwhile
        return False


def _header(image: Pillow.Image) -> tuple[Any, ...]:
    scale = getattr(image, "decoderconfig", None) if image.format == "JPEG" and getattr(image, "tile", None) else None
    return image.mode, image.size, image.info.get("transparency"), scale


def _check_page(image: ImageFile.ImageFile, data: bytes) -> None:
    if image.format != "TIFF":
        return
    try:
        page = tiff.read_page(data)
    except (Damage, Unsupported):
        return
    if image.size not in ((page.width, page.height), (page.height, page.width)):
        raise ImageError(
            f"{name_of_pil(image)}: its first page, which Pillow shows, is not the picture of "
            f"{page.width}x{page.height} in it; give the file's name or its bytes"
        )


def _check_alike(image: ImageFile.ImageFile, data: bytes) -> None:
    """Of an image that was changed: raise ImageError where Pillow does not read the file behind it as it is."""
    name = name_of_pil(image)
    whole = decode_pixels(data, name)
    with opened(data, FORMATS) as fresh:
        theirs = decoded_by_pil(fresh)
    far = whole.shape != theirs.shape or float(np.abs(to_float(whole) - to_float(theirs)).mean()) > ALIKE
    if far or (whole.dtype.itemsize > theirs.dtype.itemsize and whole.dtype.kind == "u"):
        raise ImageError(f"{name}: {_CURE}")


_CURE = (
    "Pillow does not keep the pixels of such a file (16-bit colours, planes, white at 0, further channels); "
    "give the file's name or its bytes, or an array"
)


def _check_tags(image: ImageFile.ImageFile) -> None:
    """The same of a TIFF that cannot be read again, by what its directory says."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return

    def most(tag: int, default: int) -> int:
        return int(np.max(tags.get(tag, default)))

    bits, samples, extra = most(258, 1), most(277, 1), np.ravel(tags.get(338, ()))
    deep = bits > 8 and (samples > 1 or tags.get(262) == 0 or bits not in (16, 32))
    planes = most(284, 1) == 2 and samples > 1
    if deep or planes or (extra.size and extra[0] == 0) or tags.get(262) in (8, 9):
        raise ImageError(f"{name_of_pil(image)}: {_CURE}")


def decoded_by_pil(image: Pillow.Image) -> Stored:
    """A PIL image (its current frame) as Pillow decodes it; 8 bits except in grey of 16 bits or floating point."""
    from flawmap.data.arrays import pixels_of_array  # which needs this module

    if 0 in image.size:
        raise ImageError("the PIL image is empty; it has no pixels")
    if image.mode not in _KNOWN:
        how = (
            "np.asarray(image).astype(np.uint16) where 65535 is white" if image.mode == "I" else "image.convert('RGB')"
        )
        raise ImageError(f"a PIL image of mode {image.mode} does not say how it is to be shown; give {how}")
    try:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            return over_black(np.asarray(image.convert("RGBA"))[:, :, [2, 1, 0, 3]], name_of_pil(image))
        array = np.asarray(image if image.mode in _PLAIN else image.convert("RGB"))
    except ImageError:
        raise
    except Exception as problem:  # decoded only now: truncated, closed; Pillow raises many kinds
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise ImageError(f"{name_of_pil(image)} cannot be decoded ({reason}); open it again") from problem
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    return pixels_of_array(array, "rgb")
