"""Images that are not files: arrays, PyTorch tensors, PIL images and the bytes of a file, as pixels to inspect.

What an object says of itself is believed (a file's and a PIL image's order of channels, a type's full scale); what it
does not say is asked for in one line, never guessed.

Axes: H, W the image's rows and columns, C its channels.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image as Pillow

from flawmap.data.images import Stored, decode_pixels, read_pixels
from flawmap.data.pil_images import name_of_pil, pixels_of_pil
from flawmap.data.white import FULL_SCALE, White, at_white
from flawmap.errors import ImageError

if TYPE_CHECKING:
    from torch import Tensor

ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray[Any, Any] | Tensor | Pillow.Image"
)

ORDERS = ("bgr", "rgb")
FLOATS = ("float16", "float32", "float64")
EXPECTED = "a file's name, its bytes, a PIL image, a tensor, or an array (H, W, 3) or (H, W)"


def pixels_of(image: ImageLike, order: str | None = None, white: White = FULL_SCALE) -> Stored:
    """Any image as pixels (H, W, 3), BGR: uint8, uint16, or float32 in [0, 1]. Grey takes 1 number a pixel.

    image: the name of a file; the bytes of one; a PIL image, upright by its EXIF data, transparent pixels over black,
    and of one that was opened from a file and not changed the file itself (data/pil_images.py);
    an array (H, W, 3), (H, W, 1) or (H, W), uint8, uint16 or float in [0, 1]; a tensor of these types, (C, H, W),
    (H, W, C) or (H, W) with C of 1 or 3, on any device
    order: of the channels of an array or tensor, `bgr` (None is the same) or `rgb`. Files and PIL images know theirs
    white: the level of 16 bits that state none (data/white.py)

    An array of the right type is not copied. Raises ImageError, one line that says what to give instead.
    """
    if order is not None and order not in ORDERS:
        raise ImageError(f"no order of channels {order!r}; there are: {', '.join(ORDERS)}")
    if isinstance(image, str | os.PathLike):
        if isinstance(os.fspath(image), bytes):
            raise ImageError("a file's name is text; give os.fsdecode of it")
        path = Path(image)
        if os.path.isdir(path):  # no for a name that there cannot be
            raise ImageError(f"{path} is a folder; give its files one by one, or to inspect_many")
        return read_pixels(path, white)
    if isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
        if not data:
            raise ImageError("the image has no bytes; give those of a whole file")
        return decode_pixels(data, "image", white)
    if isinstance(image, Pillow.Image):
        if order == "bgr":
            raise ImageError("a PIL image is RGB by definition; leave out order, or give np.asarray(image)")
        return pixels_of_pil(image, white)
    if (read := getattr(image, "read", None)) is not None and callable(read):
        data = read()
        if not isinstance(data, bytes):
            raise ImageError("a file of text is no image; open it with mode 'rb'")
        return pixels_of(data, order, white)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(image, torch.Tensor):
        return at_white(pixels_of_array(_of_tensor(image), order), white, "image array")
    if not isinstance(image, np.ndarray):
        if isinstance(image, list | tuple) or not hasattr(image, "__array__"):
            raise ImageError(f"an image is {EXPECTED}, not {type(image).__name__}")
        image = np.asarray(image)
    return at_white(pixels_of_array(image, order), white, "image array")


def name_of(image: object) -> str:
    """What messages and results call an image: its file, or what it is."""
    if isinstance(image, str | os.PathLike):
        return str(Path(image))
    if isinstance(image, Pillow.Image):
        return name_of_pil(image)
    return "image" if isinstance(image, bytes | bytearray | memoryview) or hasattr(image, "read") else "image array"


def several(images: Iterable[ImageLike]) -> Iterator[ImageLike]:
    """The images of a list, a generator or an array (N, H, W, C). Raises ImageError for what is one image itself."""
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Pillow.Image)
    shape = getattr(images, "shape", None)
    if one or (shape is not None and len(shape) != 4):
        raise ImageError(f"inspect_many takes several images, not one {type(images).__name__}; give a list of them")
    return iter(images)


def pixels_of_array(array: np.ndarray[Any, Any], order: str | None) -> Stored:
    """An array (H, W, 3), (H, W, 1) or (H, W) as `pixels_of`, its 16 bits as they are. Raises ImageError."""
    shape = array.shape
    if array.ndim == 1 and array.dtype == np.uint8:
        raise ImageError("a row of bytes is no array of pixels; of an encoded image give image.tobytes()")
    if array.ndim == 4:
        raise ImageError(f"{shape} are several images; give each to inspect, or all to inspect_many")
    if array.ndim not in (2, 3):
        raise ImageError(f"an image array is (H, W, 3) or (H, W), this is {shape}")
    if 0 in shape:
        raise ImageError(f"the image is empty: {shape}; an image array is (H, W, 3) or (H, W)")
    if array.ndim == 3 and shape[2] not in (1, 3):
        if shape[0] in (1, 3, 4) and shape[2] != 4:
            raise ImageError(f"channels come last, as (H, W, 3); this is {shape}: give np.moveaxis(image, 0, -1)")
        if shape[2] == 4:
            raise ImageError(f"an image array has 3 channels or 1, this is {shape}; leave out alpha: image[:, :, :3]")
        raise ImageError(f"an image array has 3 channels or 1, this is {shape}; give those that show the part")
    pixels = _in_scale(array)
    if pixels.ndim == 2:
        return np.broadcast_to(pixels[:, :, None], (*shape, 3))
    if shape[2] == 1:
        return np.broadcast_to(pixels, (*shape[:2], 3))
    return pixels[:, :, ::-1] if order == "rgb" else pixels


def _in_scale(array: np.ndarray[Any, Any]) -> Stored:
    """The same pixels as uint8, uint16 or float32 in [0, 1], in the machine's order of bytes."""
    name = array.dtype.name
    if name in ("uint8", "uint16"):
        return array.astype(name, copy=False)
    if name == "bool":
        raise ImageError("an array of bool is a mask, not an image; if it is meant, give image.astype(np.uint8) * 255")
    if name not in FLOATS:
        raise ImageError(
            f"an image array is uint8, uint16 or float in [0, 1], not {name}, which does not say its full scale; "
            "give image.astype(np.uint8) where 255 is white, image.astype(np.uint16) where 65535 is"
        )
    pixels = array.astype(np.float32, copy=False)
    lowest, highest = float(pixels.min()), float(pixels.max())
    if np.isnan(lowest) or np.isinf([lowest, highest]).any():
        raise ImageError("the image holds values that are no numbers (NaN or infinite); replace them first")
    if lowest < 0 or highest > 1:
        what = "undo its normalisation" if lowest < 0 else "divide it by its full scale, 255 for 8 bits"
        raise ImageError(f"a float image lies in [0, 1]; this one in [{lowest:g}, {highest:g}]; {what}")
    return pixels


def _of_tensor(tensor: Tensor) -> np.ndarray[Any, Any]:
    """(C, H, W), (H, W, C) or (H, W) of any device -> (H, W, C) or (H, W). Where both fit, channels come first."""
    if tensor.layout is not sys.modules["torch"].strided or tensor.is_quantized:
        raise ImageError("a sparse or quantized tensor is no image; give tensor.to_dense() or tensor.dequantize()")
    tensor = tensor.detach()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    array: np.ndarray[Any, Any] = tensor.resolve_neg().resolve_conj().cpu().numpy()
    if array.ndim == 4:
        raise ImageError(f"{array.shape} are several images; give tensor[0], or all to inspect_many")
    if array.ndim == 3 and array.shape[0] == 4 and array.shape[2] != 3:
        raise ImageError(f"an image tensor has 3 channels or 1, this is {array.shape}; leave out alpha: tensor[:3]")
    first = array.ndim == 3 and array.shape[0] in (1, 3)
    return np.moveaxis(array, 0, -1) if first else array
