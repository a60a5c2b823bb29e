"""ONNX's layers in PyTorch: convolutions, pooling, normalisation, products and activations (onnx_operators.py has the
rest, and says how an operator is written).

Source: the operator reference of ONNX (onnx.ai/onnx/operators). What differs: normalisation is computed from means, in
float32 also under autocast, as runtimes' own InstanceNorm loses digits (deploy/graph.py); batch normalisation is gone
before a graph comes here (backbones/translate.py), its factors have the name ChannelAffine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class UnsupportedError(ValueError):
    """An operator, or a variant of one, that is not translated; the text says which variant."""


Layer = Callable[[Sequence[Any], Mapping[str, Any]], Any]
CONVOLUTIONS = {1: nn.functional.conv1d, 2: nn.functional.conv2d}
TRANSPOSED = {1: nn.functional.conv_transpose1d, 2: nn.functional.conv_transpose2d}


def _pads(x: Tensor, attributes: Mapping[str, Any], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and behind each of the last axes of x; negative numbers cut."""
    axes = len(kernel)
    strides, dilations = (attributes.get(name) or [1] * axes for name in ("strides", "dilations"))
    mode = attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = (attributes.get("pads") if mode == "NOTSET" else None) or [0] * 2 * axes
        return list(pads[:axes]), list(pads[axes:])
    spans = [dilation * (side - 1) + 1 for side, dilation in zip(kernel, dilations, strict=True)]
    missing = [
        max((-(-size // stride) - 1) * stride + span - size, 0)
        for size, stride, span in zip(x.shape[-axes:], strides, spans, strict=True)
    ]
    less, more = [each // 2 for each in missing], [each - each // 2 for each in missing]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def padded(x: Tensor, before: Sequence[int], behind: Sequence[int], mode: str = "constant", value: float = 0) -> Tensor:
    """Pad the last axes of x; modes as in `nn.functional.pad`."""
    pads = [side for pair in zip(reversed(before), reversed(behind), strict=True) for side in pair]
    if not any(pads):
        return x
    if mode == "constant":
        return nn.functional.pad(x, pads, value=value)
    return nn.functional.pad(x, pads, mode)


def _convolution(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    kernel = weight.shape[2:]
    if len(kernel) not in CONVOLUTIONS:
        raise UnsupportedError(f"of {len(kernel)} axes")
    before, behind = _pads(x, attributes, kernel)
    padding: list[int] | int = before
    if before != behind:
        x, padding = padded(x, before, behind), 0
    return CONVOLUTIONS[len(kernel)](
        x, weight, bias, attributes.get("strides") or 1, padding, attributes.get("dilations") or 1,
        attributes.get("group", 1),
    )  # fmt: skip


def _transposed_convolution(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    axes = weight.dim() - 2
    pads = list(attributes.get("pads") or [0] * 2 * axes)
    plain = attributes.get("auto_pad", "NOTSET") == "NOTSET" and not attributes.get("output_shape")
    if axes not in TRANSPOSED or not plain or pads[:axes] != pads[axes:]:
        raise UnsupportedError("with auto_pad, output_shape or uneven pads")
    return TRANSPOSED[axes](
        x, weight, bias, attributes.get("strides") or 1, pads[:axes], attributes.get("output_padding") or 0,
        attributes.get("group", 1), attributes.get("dilations") or 1,
    )  # fmt: skip


def _largest(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    """MaxPool."""
    (x,) = inputs
    kernel, dilations = attributes["kernel_shape"], attributes.get("dilations") or [1, 1]
    if len(kernel) != 2 or attributes.get("storage_order"):
        raise UnsupportedError("of other than rows and columns")
    before, behind = _pads(x, attributes, kernel)
    padding: list[int] | int = before
    if before != behind or any(2 * pad > side for pad, side in zip(before, kernel, strict=True)):
        # A window that reaches beyond the border holds the outermost cells too, so these may be repeated there: -inf
        # would be among what INT8 is fitted to.
        plain = set(dilations) == {1} and all(pad < side for pad, side in zip(behind, kernel, strict=True))
        x, padding = padded(x, before, behind, "replicate" if plain else "constant", -torch.inf), 0
    return nn.functional.max_pool2d(
        x, kernel, attributes.get("strides") or [1, 1], padding, dilations, bool(attributes.get("ceil_mode", 0))
    )


def _averaged(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    """AveragePool."""
    (x,) = inputs
    kernel, strides = attributes["kernel_shape"], attributes.get("strides") or [1, 1]
    if len(kernel) != 2 or set(attributes.get("dilations") or [1]) != {1}:
        raise UnsupportedError("of other than rows and columns, or dilated")
    before, behind = _pads(x, attributes, kernel)
    ceil, counted = bool(attributes.get("ceil_mode", 0)), bool(attributes.get("count_include_pad", 0))
    if before == behind and not any(2 * pad > side for pad, side in zip(before, kernel, strict=True)):
        return nn.functional.avg_pool2d(x, kernel, strides, before, ceil, counted)
    if ceil:
        raise UnsupportedError("with uneven pads and ceil_mode")
    means = nn.functional.avg_pool2d(padded(x, before, behind), kernel, strides)
    if counted:
        return means
    return means / nn.functional.avg_pool2d(padded(torch.ones_like(x[:1, :1]), before, behind), kernel, strides)


def _pad(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, pads, value, axes = (*inputs, None, None)[:4]
    mode = attributes.get("mode", "constant")
    names = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    count = len(pads) // 2
    sides = {
        axis % x.dim(): (pads[number], pads[number + count])
        for number, axis in enumerate(axes if axes is not None else range(count))
    }
    first = min((axis for axis, pair in sides.items() if any(pair)), default=x.dim() - 1)
    if mode not in names or (mode != "constant" and first < x.dim() - 2):
        raise UnsupportedError(f"mode {mode} of other than rows and columns")
    first = first if mode == "constant" else max(x.dim() - 2, 0)
    pairs = [sides.get(axis, (0, 0)) for axis in range(first, x.dim())]
    return padded(x, [pair[0] for pair in pairs], [pair[1] for pair in pairs], names[mode], value or 0.0)


def _channels(factor: Tensor, x: Tensor) -> Tensor:
    """Reshape factors (C,) to broadcast with x (B, C, ...)."""
    return factor.reshape(-1, *(1 for _ in range(x.dim() - 2)))


def _channel_affine(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    """ChannelAffine: x times a factor plus a shift for each channel."""
    x, scale, shift = inputs
    found: Tensor = x * _channels(scale, x) + _channels(shift, x)
    return found


def _normalised(x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    centred = x - x.mean(tuple(axes), keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(tuple(axes), keepdim=True) + epsilon)


def _instance_normalised(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, scale, shift = inputs
    found = _normalised(x.float(), range(2, x.dim()), attributes.get("epsilon", 1e-5))
    return _channel_affine([found, scale, shift], {})


def _group_normalised(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, scale, shift = inputs
    groups = attributes["num_groups"]
    if groups != x.shape[1] and len(scale) == groups:  # opset 18 has factors by group
        scale, shift = (factor.repeat_interleave(x.shape[1] // groups) for factor in (scale, shift))
    split = x.float().reshape(x.shape[0], groups, -1)
    found = _normalised(split, [2], attributes.get("epsilon", 1e-5)).reshape(x.shape)
    return _channel_affine([found, scale, shift], {})


def _layer_normalised(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, scale, shift = (*inputs, None)[:3]
    axis = attributes.get("axis", -1) % x.dim()
    shape, epsilon = x.shape[axis:], attributes.get("epsilon", 1e-5)
    if scale.shape == shape and (shift is None or shift.shape == shape):
        return nn.functional.layer_norm(x.float(), shape, scale, shift, epsilon)
    found: Tensor = _normalised(x.float(), range(axis, x.dim()), epsilon) * scale
    return found if shift is None else found + shift


def _gemm(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    x = x.t() if attributes.get("transA") else x
    weight = weight if attributes.get("transB") else weight.t()
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    found = nn.functional.linear(x, weight)
    found = found if alpha == 1 else alpha * found
    return found if bias is None else found + (bias if beta == 1 else beta * bias)


def _resized(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, _, scales, sizes = (*inputs, None, None)[:4]
    mode, place = attributes.get("mode", "nearest"), attributes.get("coordinate_transformation_mode", "half_pixel")
    odd = attributes.get("antialias") or attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    if odd or attributes.get("axes") or x.dim() != 4:
        raise UnsupportedError("with antialias, keep_aspect_ratio_policy or axes")
    size = list(sizes[2:]) if sizes else [int(side * by) for side, by in zip(x.shape[2:], scales[2:], strict=True)]
    if mode == "nearest":
        whole = all(new % old == 0 for new, old in zip(size, x.shape[2:], strict=True))
        if not whole and (place, attributes.get("nearest_mode", "round_prefer_floor")) != ("asymmetric", "floor"):
            raise UnsupportedError(f"nearest, {place}, by other than a whole factor")
        return nn.functional.interpolate(x, size=size, mode="nearest")
    names = {"linear": "bilinear", "cubic": "bicubic"}
    corners = place == "align_corners"
    if mode not in names or not (corners or place in ("half_pixel", "pytorch_half_pixel")):
        raise UnsupportedError(f"{mode}, {place}")
    return nn.functional.interpolate(x, size=size, mode=names[mode], align_corners=corners)


def _depth_to_space(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    (x,) = inputs
    side = attributes["blocksize"]
    if attributes.get("mode", "DCR") == "CRD":
        return nn.functional.pixel_shuffle(x, side)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, side, side, channels // side**2, height, width)
    shape = (batch, channels // side**2, height * side, width * side)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(shape)  # type: ignore[no-any-return]


def _space_to_depth(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    (x,) = inputs
    side = attributes["blocksize"]
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // side, side, width // side, side)
    shape = (batch, channels * side**2, height // side, width // side)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(shape)  # type: ignore[no-any-return]


def _clipped(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, low, high = (*inputs, None, None)[:3]
    if not isinstance(x, Tensor):
        raise UnsupportedError("of a size")
    return x if low is None and high is None else x.clamp(low, high)


def _gelu(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    return nn.functional.gelu(inputs[0], approximate=attributes.get("approximate", "none"))


def _hard_sigmoid(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    (x,) = inputs
    found: Tensor = (x * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5)).clamp(0, 1)
    return found


def _p_relu(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, slope = inputs
    return torch.where(x < 0, x * slope, x)


LAYERS: dict[str, Layer] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MaxPool": _largest,
    "AveragePool": _averaged,
    "GlobalAveragePool": lambda inputs, attributes: inputs[0].mean(tuple(range(2, inputs[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda inputs, attributes: inputs[0].amax(tuple(range(2, inputs[0].dim())), keepdim=True),
    "Pad": _pad,
    "ChannelAffine": _channel_affine,
    "InstanceNormalization": _instance_normalised,
    "GroupNormalization": _group_normalised,
    "LayerNormalization": _layer_normalised,
    "MatMul": lambda inputs, attributes: torch.matmul(*inputs),
    "Gemm": _gemm,
    "Einsum": lambda inputs, attributes: torch.einsum(attributes["equation"], *inputs),
    "Softmax": lambda inputs, attributes: inputs[0].softmax(attributes.get("axis", -1)),
    "Resize": _resized,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Clip": _clipped,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "PRelu": _p_relu,
    "LeakyRelu": lambda inputs, attributes: nn.functional.leaky_relu(inputs[0], attributes.get("alpha", 0.01)),
    "Elu": lambda inputs, attributes: nn.functional.elu(inputs[0], attributes.get("alpha", 1.0)),
    "Celu": lambda inputs, attributes: nn.functional.celu(inputs[0], attributes.get("alpha", 1.0)),
    "Swish": lambda inputs, attributes: inputs[0] * torch.sigmoid(attributes.get("alpha", 1.0) * inputs[0]),
}
