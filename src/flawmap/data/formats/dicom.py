"""DICOM and DICONDE: one picture of integers, white at its BitsStored (NEMA PS3.3 C.7.6.3; ASTM E2339). By pydicom.

pydicom reads uncompressed pixels, RLE, JPEG and JPEG 2000; JPEG-LS and lossless JPEG come by imagecodecs. Both are in
the extra `formats`. A file may begin as a TIFF and be a DICOM file all the same.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from flawmap.data.formats import INSTALL, Damage, Unsupported, jpeg, jpeg_lossless
from flawmap.data.formats.tiff_colour import by_table
from flawmap.errors import FlawmapError

Array = np.ndarray[Any, np.dtype[Any]]

MAX_ELEMENTS = 20_000
FEW_LEVELS = 65536 // 8
MOST_UNPACKED = 400_000_000  # bytes
_BASELINE, _EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_RLE = "1.2.840.10008.1.2.5"
_READ = (_BASELINE, "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", _RLE)  # compressed, by pydicom
_OVERLAYS = range(0x6000, 0x6020, 2)
_PIXELS = 0x7FE00008  # the first of the tags of pixels
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_TAGS = (
    "Rows", "Columns", "SamplesPerPixel", "BitsStored", "BitsAllocated", "PixelRepresentation", "NumberOfFrames",
    "PhotometricInterpretation", "RescaleSlope", "HighBit", "PresentationLUTShape",
)  # fmt: skip
_NO_PICTURE = "a DICOM file without a picture of integers"


class Facts(NamedTuple):
    """What the elements say. bits: BitsStored; shift: bits below them; turned: whether the largest value is black"""

    width: int
    height: int
    samples: int
    bits: int
    allocated: int
    signed: bool
    turned: bool
    frames: int
    colours: str
    shift: int = 0

    @property
    def states_white(self) -> bool:
        """Whether full white is known by it: 16 bits from 0 on are as many as the container has, and say nothing."""
        return self.bits < 16 or self.signed


def is_dicom(data: bytes) -> bool:
    """Whether the bytes begin as those of a DICOM or DICONDE file."""
    return data[128:132] == b"DICM"


def size(data: bytes) -> tuple[int, int]:
    """Columns and rows; the pixels are not read. Raises as `facts`."""
    return facts(data)[:2]


def states_white(data: bytes) -> bool:
    """`Facts.states_white` of a file that was decoded."""
    return facts(data).states_white


def facts(data: bytes) -> Facts:
    """Read the elements before the pixels. Raises Unsupported without the extra or a picture, Damage if broken."""
    with _quiet() as pydicom:
        _bound(data)
        return _facts(_read(pydicom, data, pixels=False))


def _read(pydicom: Any, data: bytes, pixels: bool) -> Any:
    """The data set, without `pixels` as far as they begin; its elements are counted with a bound."""
    count = 0

    def stops(tag: int, *_: object) -> bool:
        nonlocal count
        count += 1
        if count > MAX_ELEMENTS:
            raise Unsupported(f"a DICOM file with more than {MAX_ELEMENTS} elements; save it anew")
        return not pixels and tag >= _PIXELS

    tags = None if pixels else [pydicom.tag.Tag(name) for name in _TAGS]
    return pydicom.filereader.read_partial(io.BytesIO(data), stop_when=stops, specific_tags=tags)


def _facts(file: Any) -> Facts:
    if "Rows" not in file or "Columns" not in file or "BitsStored" not in file:
        raise Unsupported(_NO_PICTURE)
    colours = str(file.get("PhotometricInterpretation", ""))
    # MONOCHROME1 asks for the shape INVERSE (PS3.3 C.8.11.1.1): both say the same thing.
    inverse = colours.startswith("MONOCHROME") and str(file.get("PresentationLUTShape", "")) == "INVERSE"
    turned = (colours == "MONOCHROME1" or inverse) != (float(file.get("RescaleSlope", 1) or 1) < 0)
    bits, high = int(file.BitsStored), file.get("HighBit")
    return Facts(
        int(file.Columns), int(file.Rows), int(file.get("SamplesPerPixel", 1)), bits,
        int(file.get("BitsAllocated", 16)), bool(int(file.get("PixelRepresentation", 0))), turned,
        int(file.get("NumberOfFrames", 1) or 1), colours, 0 if high is None else int(high) + 1 - bits,
    )  # fmt: skip


def _bound(data: bytes) -> None:
    """Raise Unsupported for a data set that is packed as a whole and unpacks to more than MOST_UNPACKED bytes."""
    if _DEFLATED in data[:1024] and len(data) > 144:
        start = 144 + int.from_bytes(data[140:144], "little")
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        engine.decompress(data[start:], MOST_UNPACKED)
        if engine.unconsumed_tail:
            raise Unsupported("a DICOM file that is very large once unpacked; save it without compression")


@contextmanager
def _quiet() -> Iterator[Any]:
    """pydicom, with what it warns of and raises turned into the errors of formats."""
    if not find_spec("pydicom"):
        raise Unsupported(f"a DICOM file; {INSTALL}")
    import pydicom
    import pydicom.filereader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield pydicom
        except (Unsupported, Damage, MemoryError, FlawmapError):
            raise
        except Exception as problem:  # pydicom raises many kinds on damaged files
            short = "bytes of pixel data is less than expected" in str(problem)
            raise Damage("truncated" if short else _line(problem)) from problem


def decode(data: bytes, fits: Callable[[int, int, float, bytes], None]) -> tuple[Array, str]:
    """(H, W) or (H, W, 3) in RGB order, white at full scale, with a remark, "" for none.

    `fits` is asked of width, height and bytes a pixel first.

    Stored values count from 0 to 2^BitsStored - 1; MONOCHROME1 or the shape INVERSE, and a negative RescaleSlope, turn
    dark and bright round. A positive rescale changes the unit of the values, not their place between black and white.
    """
    with _quiet() as pydicom:
        _bound(data)
        file = _read(pydicom, data, pixels=True)
        if "PixelData" not in file:
            raise Unsupported(_NO_PICTURE)
        said = _facts(file)
        if said.frames > 1:
            raise Unsupported(f"it holds {said.frames} images; save each as a file of its own")
        if said.colours == "PALETTE COLOR":
            raise Unsupported("a DICOM file with a palette; save it as PNG or TIFF")
        if not 1 <= said.bits <= 16 or said.allocated > 16:
            raise Unsupported("a DICOM file with more than 16 bits; save it as PNG or TIFF")
        if said.samples not in (1, 3):
            raise Unsupported(f"a DICOM file with {said.samples} channels; save it as grey or RGB")
        if not 0 <= said.shift <= said.allocated - said.bits:
            raise Damage(
                f"its high bit {said.shift + said.bits - 1} does not suit {said.bits} of {said.allocated} bits"
            )
        fits(said.width, said.height, said.samples * (2 if said.allocated > 8 else 1) * 6, data)
        pixels = _pixels(file, said)
    if pixels.shape[:2] != (said.height, said.width):
        raise Damage("its pixels are of another size than its header says")
    if said.shift and int(pixels.max()) >= 1 << said.bits:  # compressed with the bits below
        pixels = _stored(pixels, said, drawings=False)
    return _at_full_scale(pixels, said), _remark(pixels, said)


def _pixels(file: Any, said: Facts) -> Array:
    """The stored values. Raises Damage for what is missing or corrupt, Unsupported for a compression not read."""
    syntax = file.file_meta.TransferSyntaxUID if "TransferSyntaxUID" in file.file_meta else None
    file.pixel_array_options(correct_unused_bits=False)  # pydicom would drop what exceeds BitsStored
    if syntax is None or not syntax.is_compressed or syntax.is_deflated:
        return _stored(np.asarray(file.pixel_array), said, _holds_overlay(file))
    from pydicom.encaps import generate_frames

    frame = next(generate_frames(file.PixelData, number_of_frames=1), b"")
    if syntax == _EXTENDED and said.bits > 8:  # no decoder at hand tells what is missing in it
        raise _unread(f"{syntax.name} of {said.bits} bits")
    if syntax in (*_LS, *_LOSSLESS):
        return _by_imagecodecs(frame, str(syntax), syntax.name, said)
    if syntax in (_BASELINE, _EXTENDED):  # Pillow, by which pydicom decodes it, is silent about a piece that is missing
        head = jpeg.facts(frame)
        jpeg.check(frame, head)
        jpeg.decode(frame, head)
    try:
        pixels = np.asarray(file.pixel_array)
        return _stored(pixels, said, _holds_overlay(file)) if syntax == _RLE else pixels
    except (NotImplementedError, RuntimeError) as problem:
        if syntax in _READ:
            raise Damage("its compressed pixels cannot be decoded") from problem
        raise _unread(syntax.name) from problem


def _holds_overlay(file: Any) -> bool:
    """Whether bits beside those of the pixels are drawings (60xx,0102), as older files have them."""
    return any(int(file[group, 0x0102].value or 0) > 0 for group in _OVERLAYS if (group, 0x0102) in file)


def _stored(pixels: Array, said: Facts, drawings: bool) -> Array:
    """The values of BitsStored in cells of BitsAllocated (PS3.5, 8.1.1): below HighBit, the sign carried upwards.

    Raises Damage where the bits above hold something else, unless they hold `drawings`.
    """
    unused = 8 * pixels.itemsize - said.bits - said.shift
    if said.allocated == 1 or (unused == 0 and said.shift == 0):
        return pixels
    cells = pixels.view(f"{pixels.dtype.byteorder}u{pixels.itemsize}").astype(f"u{pixels.itemsize}")
    values = cells << unused
    values = (values.view(f"i{pixels.itemsize}") if said.signed else values) >> unused
    others = (values.view(cells.dtype) != cells) & (cells >> (said.bits + said.shift) != 0)
    if not drawings and others.any():
        raise Damage(f"its values exceed the {said.bits} bits that it states")
    return np.asarray(values >> said.shift)


def _by_imagecodecs(frame: bytes, syntax: str, name: str, said: Facts) -> Array:
    if not find_spec("imagecodecs"):
        raise Unsupported(f"a DICOM file compressed by {name}; {INSTALL}")
    import imagecodecs

    if said.samples == 3 and said.colours != "RGB":
        raise _unread(f"{name}, in {said.colours}")
    try:
        pixels: Array = imagecodecs.jpegls_decode(frame) if syntax in _LS else imagecodecs.jpegsof3_decode(frame)
    except NotImplementedError as problem:
        raise _unread(name) from problem
    except (RuntimeError, ValueError) as problem:
        raise Damage("its compressed pixels cannot be decoded") from problem
    if syntax in _LOSSLESS:  # its decoder is silent about a piece that is missing
        jpeg_lossless.check(frame, pixels)
    if not said.signed:
        return pixels
    unused = 8 * pixels.itemsize - said.bits
    return (pixels << unused).view(f"i{pixels.itemsize}") >> unused


def _unread(name: str) -> Unsupported:
    return Unsupported(f"a DICOM file compressed by {name}, which is not read; save it without compression")


def _at_full_scale(pixels: Array, said: Facts) -> Array:
    lowest, white = -(1 << said.bits - 1) if said.signed else 0, (1 << said.bits) - 1
    if pixels.min() < lowest or pixels.max() > lowest + white:
        raise Damage(f"its values exceed the {said.bits} bits that it states")
    target = np.uint8 if said.bits <= 8 else np.uint16
    table = np.rint(np.arange(white + 1) * (np.iinfo(target).max / white)).astype(target)
    table = np.roll(table[::-1] if said.turned else table, lowest)  # a negative index counts from the end
    return by_table(pixels, table)


def _remark(pixels: Array, said: Facts) -> str:
    """Signed values have no black that a setting could tell, so that few levels of 16 bits stay few."""
    span = int(pixels.max()) - int(pixels.min())
    if said.signed and said.bits == 16 and span < FEW_LEVELS:
        return "signed values that use few of their 65536 levels, so that it is nearly grey; save it unsigned"
    return ""


def _line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0][:160]
