"""Try a translated backbone on an image: the shapes of its maps, independence of images, agreement with ONNX Runtime.

Axes: B images, C channels, H, W rows and columns of an image, h, w of feature maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flawmap.errors import ConfigError, first_line
from flawmap.model.onnx_backbone import IMAGE, OnnxBackbone, Program
from flawmap.model.onnx_layers import UnsupportedError

TOLERANCE = 1e-3  # of a map's largest value, that ONNX Runtime may differ by
LARGEST_STRIDE = 64  # pixels along the side of a cell, where the image's sides are no multiples of it
FEWEST_CELLS = 2  # along a side of a map
COARSEST = 4  # stride, in pixels, that at least one map must have: score maps have cells of this size

Weights = Mapping[str, np.ndarray[Any, Any]]


def module_of(program: Program, weights: Weights) -> OnnxBackbone:
    """Build the module of a program and its weights, frozen."""
    module = OnnxBackbone(program)
    module.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()})
    return module.eval().requires_grad_(False)


@torch.no_grad()
def of_any_batch(program: Program, weights: Weights, height: int, width: int) -> Program:
    """Open the reshapes to fixed sizes, in a program that was exported for one image, to any number of images.

    For one image the result is the same. `describe` checks several.
    """
    module, values = module_of(program, weights), {IMAGE: torch.zeros(1, 3, height, width)}
    steps, constants = [], dict(program.constants)
    for step in program.steps:
        shape = constants.get(step.inputs[1]) if step.operator == "Reshape" else None
        x = values.get(step.inputs[0])
        empty = isinstance(shape, tuple) and 0 in shape and bool(step.attributes.get("allowzero"))
        if isinstance(shape, tuple) and shape and isinstance(x, Tensor) and not empty:
            name = f"{step.outputs[0]}_shape"
            one = shape[0] == 1 and x.dim() > 0 and x.shape[0] == 1
            constants[name] = (0 if one else -1 if -1 not in shape else shape[0], *shape[1:])
            steps.append(step._replace(inputs=(step.inputs[0], name), attributes={}))
        else:
            steps.append(step)
        try:
            values |= module.perform(step, values)
        except Exception:  # `describe` reports it
            return program
    return program._replace(steps=tuple(steps), constants=constants)


@torch.no_grad()
def describe(
    program: Program, weights: Weights, outputs: Sequence[str], images: Tensor, name: str, batch: int
) -> OnnxBackbone:
    """Measure channels and strides of the maps on `images` (2, 3, H, W), and return the backbone, the finest map first.

    `outputs`: the maps' names in the graph; `batch`: the number of images that it was exported for, 0 for any. Raises
    ConfigError, naming the file `name`, when the outputs are not feature maps.
    """
    backbone = module_of(program, weights)
    maps = _run(backbone, images[:1], name)
    height, width = images.shape[-2:]
    strides = []
    for output, found in zip(outputs, maps, strict=True):
        if not isinstance(found, Tensor) or found.dim() != 4:
            shape = tuple(found.shape) if isinstance(found, Tensor) else found
            raise ConfigError(
                f"{name}: its output {output} is of shape {shape}, not a feature map (N, C, h, w); export it with "
                "intermediate feature maps as outputs (docs/backbones.md)"
            )
        stride = stride_of(height, width, *found.shape[-2:])
        if not stride or min(found.shape[-2:]) < FEWEST_CELLS:
            raise ConfigError(
                f"{name}: its output {output} has {found.shape[-2]}x{found.shape[-1]} cells for an image of "
                f"{height}x{width} pixels; both sides must be the same whole fraction of the image's"
            )
        strides.append(stride)
    if max(strides) < COARSEST:
        raise ConfigError(f"{name}: its coarsest map is at 1/{max(strides)}; at least one at 1/{COARSEST} is needed")
    try:
        both = backbone(images)
        alike = all(_close(two[:1], one) for one, two in zip(maps, both, strict=True))
    except Exception:  # whatever PyTorch finds wrong with the shapes
        alike = False
    if not alike:
        cure = "export it for any number of images (a dynamic batch)" if batch else "export it in evaluation mode"
        raise ConfigError(f"{name} finds something else in an image that comes with another; {cure}")
    order = sorted(range(len(maps)), key=lambda number: strides[number])
    return module_of(
        program._replace(
            maps=tuple(program.maps[number] for number in order),
            channels=tuple(maps[number].shape[1] for number in order),
            strides=tuple(strides[number] for number in order),
        ),
        weights,
    )


def stride_of(height: int, width: int, rows: int, columns: int) -> int:
    """Stride, in pixels, of a map of rows x columns cells; 0 where there is none.

    Where the image's sides are no multiples of it, a power of two up to LARGEST_STRIDE, and the map may have a cell
    more than fit, or only whole ones.
    """
    if height % rows == 0 and width % columns == 0 and height // rows == width // columns:
        return height // rows
    for round_up in (True, False):
        stride = 2
        while stride <= LARGEST_STRIDE:
            cells = [(side + (stride - 1) * round_up) // stride for side in (height, width)]
            if cells == [rows, columns]:
                return stride
            stride *= 2
    return 0


@torch.no_grad()
def compare(backbone: OnnxBackbone, images: Tensor, runtime: ModuleType, file: Path, batch: int) -> None:
    """Compare the maps of `images` (1, 3, H, W) with those of ONNX Runtime. Raises ConfigError where they differ."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        given = backbone.prepared(images).repeat(max(batch, 1), 1, 1, 1).numpy()
        found = session.run(None, {session.get_inputs()[0].name: given})
    except Exception as problem:  # ONNX Runtime has kinds of its own
        raise ConfigError(f"{file} cannot be run by ONNX Runtime ({first_line(problem)}); export it anew") from problem
    wanted = sorted((torch.from_numpy(each[:1]) for each in found), key=lambda each: -each.shape[-2])
    for own, theirs in zip(backbone(images), wanted, strict=True):
        if own.shape != theirs.shape or not _close(own, theirs):
            raise ConfigError(
                f"{file}: PyTorch finds other features than ONNX Runtime at 1/{images.shape[-2] // own.shape[-2]}; "
                "this is a fault of flawmap's, please report it; exporting with another opset may help"
            )


def _run(backbone: OnnxBackbone, image: Tensor, name: str) -> list[Any]:
    """Compute the maps of one image step by step, so that a failure names its operator. Raises ConfigError."""
    values: dict[str, Any] = {IMAGE: backbone.prepared(image)}
    for step in backbone.program.steps:
        try:
            values |= backbone.perform(step, values)
        except UnsupportedError as problem:
            raise ConfigError(
                f"{name}: its operator {step.operator} is not translated as it stands there ({problem}); export "
                "features from before it, or without it (docs/backbones.md)"
            ) from problem
        except Exception as problem:  # whatever PyTorch finds wrong with the shapes
            height, width = image.shape[-2:]
            raise ConfigError(
                f"{name} cannot take an image of {height}x{width} pixels: its operator {step.operator} fails "
                f"({first_line(problem)}); export it for any height and width, or for this size"
            ) from problem
    return [values[output] for output in backbone.program.maps]


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Whether two maps agree up to rounding; values that are not finite never do."""
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max() + 1e-6)
