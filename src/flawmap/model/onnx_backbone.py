"""A backbone of the user's own: an ONNX graph of an image network, run in PyTorch, and its feature maps.

Beyond DSR. A graph is kept as a program, the steps that lead from the image to the maps (backbones/translate.py reads
it from an ONNX file), so that a bundle inspects without that file and without ONNX, on any device, and exports as the
rest of the model does. Every backbone here takes images (B, 3, H, W), BGR in [0, 1], and returns a list of feature
maps, the finest first; `channels` and `strides` hold a number for each.

Axes: B images, C channels, H, W rows and columns of the image, h, w of feature maps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flawmap.model.onnx_operators import OPERATORS

IMAGE = "image"
LOW, HIGH = 16, 8  # strides, in pixels, of maps of low and of high resolution


class Step(NamedTuple):
    """Operator with the names of its inputs, "" for one left out, and of its outputs."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class Program(NamedTuple):
    """Network as steps from IMAGE to `maps`, the finest first.

    weights: the shape of each tensor of weights. constants: numbers, tuples of numbers, and small tensors as
    {"shape": [...], "values": [...], "kind": "float", "int" or "bool"}. mean, deviation: of each channel of an image in
    [0, 1], in the network's `order` of channels, "rgb" or "bgr". channels, strides: of each map, a stride in pixels.
    size: (H, W) of the only images it takes, None for any. sha256: of the file it was read from.
    """

    steps: tuple[Step, ...]
    weights: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Any]
    maps: tuple[str, ...]
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    order: str = "rgb"
    size: tuple[int, int] | None = None
    sha256: str = ""

    def to_json(self) -> str:
        """Write the program as text, without its weights."""
        return json.dumps(self._asdict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Read what `to_json` wrote. Raises ValueError, TypeError, LookupError or AttributeError for other text."""
        values = json.loads(text)
        steps = tuple(Step(name, tuple(inputs), tuple(outputs), attributes)
                      for name, inputs, outputs, attributes in values.pop("steps"))  # fmt: skip
        unknown = sorted({step.operator for step in steps} - OPERATORS.keys())
        if unknown:
            raise ValueError(f"it has the operator {unknown[0]}, which this flawmap does not know")
        weights = {name: tuple(shape) for name, shape in values.pop("weights").items()}
        constants = {name: _hashable(value) for name, value in values.pop("constants").items()}
        rest = {name: _hashable(value) for name, value in values.items()}
        return cls(steps=steps, weights=weights, constants=constants, **rest)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class OnnxBackbone(nn.Module):
    """Module that runs a program; frozen. Weights are 0 until they are loaded.

    channels, strides: of each map, the finest first; size: (H, W) of the only images it takes, or None.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.channels, self.strides, self.size = program.channels, program.strides, program.size
        for name, shape in program.weights.items():
            self.register_buffer(name, torch.zeros(shape))
        self._numbers: dict[str, Any] = {}
        for name, value in program.constants.items():
            if isinstance(value, Mapping):
                kind = {"float": torch.float32, "int": torch.int64, "bool": torch.bool}[value["kind"]]
                tensor = torch.tensor(value["values"], dtype=kind).reshape(value["shape"])
                self.register_buffer(name, tensor, persistent=False)
            else:
                self._numbers[name] = value
        for name, channels in (("mean", program.mean), ("deviation", program.deviation)):
            self.register_buffer(name, torch.tensor(channels).view(1, 3, 1, 1), persistent=False)
        self._done = _last_uses(program)

    def prepared(self, image: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W), BGR in [0, 1], as the network takes them."""
        x = image if self.program.order == "bgr" else image.flip(1)
        if {*self.program.mean} == {0.0} and {*self.program.deviation} == {1.0}:
            return x
        return (x - self.get_buffer("mean")) / self.get_buffer("deviation")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps (B, C, h, w) of images (B, 3, H, W), BGR in [0, 1]; the finest first."""
        values: dict[str, Any] = {IMAGE: self.prepared(image)}
        for number, step in enumerate(self.program.steps):
            values.update(self.perform(step, values))
            for name in self._done[number]:
                values.pop(name, None)
        return [values[name] for name in self.program.maps]

    def perform(self, step: Step, values: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs of one step on `values`, by name."""
        found = OPERATORS[step.operator]([self._value(name, values) for name in step.inputs], step.attributes)
        made = found if isinstance(found, list) else [found]
        return {name: value for name, value in zip(step.outputs, made, strict=False) if name}

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        if not name:
            return None
        if name in values:
            return values[name]
        return self._numbers[name] if name in self._numbers else self.get_buffer(name)


def _last_uses(program: Program) -> list[list[str]]:
    """Names of values that no later step needs, for each step: a large network must not keep all it computed."""
    kept, done = {*program.maps}, []
    for step in reversed(program.steps):
        used = {name for name in (*step.inputs, *step.outputs) if name} - kept
        kept |= used
        done.append(sorted(used))
    return done[::-1]


class BackboneFeatures(nn.Module):
    """Features of a backbone in two resolutions, each on one grid, as ImageNetFeatures has them (imagenet.py).

    Low resolution: its maps of stride LOW or more, else its coarsest ones, each a mean over 3 by 3 of its cells. High
    resolution: its maps of strides HIGH to LOW, else those of the stride nearest to HIGH, as they are. Maps are brought
    to the grid of the finest among them. low_channels, high_channels: of these features.
    """

    def __init__(self, backbone: OnnxBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        strides = backbone.strides
        least = min(LOW, max(strides))
        nearest = min(strides, key=lambda stride: (abs(math.log2(stride / HIGH)), -stride))
        first, last = (HIGH, LOW) if any(HIGH <= stride <= LOW for stride in strides) else (nearest, nearest)
        self.low = [number for number, stride in enumerate(strides) if stride >= least]
        self.high = [number for number, stride in enumerate(strides) if first <= stride <= last]
        self.low_channels, self.high_channels = (
            sum(backbone.channels[number] for number in used) for used in (self.low, self.high)
        )
        self.requires_grad_(False)

    def blocks(self, image: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w) of images (B, 3, H, W), BGR in [0, 1], the finest first."""
        maps: list[Tensor] = self.backbone(image)
        return maps

    def low_resolution(self, maps: Sequence[Tensor]) -> Tensor:
        """Features (B, low_channels, h, w) of what `blocks` returns."""
        means = [nn.functional.avg_pool2d(maps[number], 3, 1, 1, count_include_pad=False) for number in self.low]
        return self._on_one_grid(means, self.low)

    def high_resolution(self, maps: Sequence[Tensor]) -> Tensor:
        """Features (B, high_channels, h, w) of what `blocks` returns."""
        return self._on_one_grid([maps[number] for number in self.high], self.high)

    def forward(self, image: Tensor) -> Tensor:
        """Features of low resolution of images (B, 3, H, W), BGR in [0, 1]."""
        return self.low_resolution(self.blocks(image))

    def _on_one_grid(self, maps: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
        strides = [self.backbone.strides[number] for number in numbers]
        size = maps[0].shape[-2:]
        return torch.cat(
            [resampled(cells, stride, strides[0], size) for cells, stride in zip(maps, strides, strict=True)], dim=1
        )


def resampled(cells: Tensor, stride: int, to: int, size: Sequence[int]) -> Tensor:
    """Resample a map (B, C, h, w) with cells of `stride` pixels to `size` cells of `to` pixels, bilinearly.

    Where the sides are not multiples of the stride, a map has a cell more at its end, which is cut, or lacks one, where
    the last is repeated.
    """
    height, width = size
    if stride % to:
        return nn.functional.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)
    factor = stride // to
    if factor > 1:
        larger = factor * cells.shape[-2], factor * cells.shape[-1]
        cells = nn.functional.interpolate(cells, size=larger, mode="bilinear", align_corners=False)
    cells = cells[..., :height, :width]
    lacking = height - cells.shape[-2], width - cells.shape[-1]
    return nn.functional.pad(cells, (0, lacking[1], 0, lacking[0]), mode="replicate") if any(lacking) else cells
