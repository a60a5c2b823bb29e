"""ONNX operators in PyTorch, those that image backbones are made of (onnx_backbone.py runs them).

Source: the operator reference of ONNX (onnx.ai/onnx/operators), opset 13 and newer. What differs: sizes are computed on
Python numbers, not on tensors, so that a graph which asks for the shape of its image can be exported again; floating
point is float32 throughout, or what autocast makes of it.

A value is a Tensor, a number (a scalar), or a tuple of numbers (one axis: a shape, or what is computed from one). An
operator takes its inputs, None for those left out, and its attributes by ONNX's names, and returns a value, or a list
of values where it has several outputs. It raises UnsupportedError for a variant that is not translated.

Axes: B images, C channels, H, W rows and columns.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flawmap.model.onnx_layers import LAYERS, UnsupportedError

Inputs = Sequence[Any]
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], Any]

FLOATS = (1, 10, 11, 16)  # ONNX's numbers of float, float16, double and bfloat16
BOOLEAN = 9  # and of bool


def elementwise(function: Callable[..., Any]) -> Operator:
    """Apply `function`, of numbers or tensors, to values element by element; tuples of one element are stretched."""

    def apply(inputs: Inputs, attributes: Attributes) -> Any:
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        if tensors:
            return function(*(_beside(value, tensors[0]) for value in inputs))
        lengths = {len(value) for value in inputs if isinstance(value, tuple)}
        if not lengths:
            return function(*inputs)
        length = max(lengths) if lengths != {0, 1} else 0
        rows = [value * (length if len(value) == 1 else 1) if isinstance(value, tuple) else (value,) * length
                for value in inputs]  # fmt: skip
        return tuple(function(*each) for each in zip(*rows, strict=True))

    return apply


def _beside(value: Any, tensor: Tensor) -> Any:
    """Convert a tuple to a tensor like another."""
    return torch.tensor(value, device=tensor.device, dtype=tensor.dtype) if isinstance(value, tuple) else value


def _divided(x: Any, y: Any) -> Any:
    """Divide; whole numbers towards 0, as in ONNX."""
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        whole = not any(isinstance(each, float) or (isinstance(each, Tensor) and each.is_floating_point())
                        for each in (x, y))  # fmt: skip
        return torch.div(x, y, rounding_mode="trunc") if whole else x / y
    if isinstance(x, float | torch.SymFloat) or isinstance(y, float | torch.SymFloat):
        return x / y
    return x // y if (x >= 0) == (y > 0) else -(-x // y)


def _power(x: Any, y: Any) -> Any:
    return torch.square(x) if isinstance(x, Tensor) and isinstance(y, int | float) and y == 2 else x**y


def _larger(x: Any, y: Any) -> Any:
    if not isinstance(x, Tensor):
        x, y = y, x
    if not isinstance(x, Tensor):
        return torch.sym_max(x, y)  # type: ignore[no-untyped-call]
    return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp_min(y)


def _smaller(x: Any, y: Any) -> Any:
    if not isinstance(x, Tensor):
        x, y = y, x
    if not isinstance(x, Tensor):
        return torch.sym_min(x, y)  # type: ignore[no-untyped-call]
    return torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp_max(y)


def _where(condition: Any, x: Any, y: Any) -> Any:
    return torch.where(condition, x, y) if isinstance(condition, Tensor) else (x if condition else y)


def _folded(function: Callable[[Any, Any], Any]) -> Operator:
    """Operator of any number of inputs."""
    both = elementwise(function)
    return lambda inputs, attributes: functools.reduce(lambda x, y: both([x, y], attributes), inputs)


def _mean(inputs: Inputs, attributes: Attributes) -> Any:
    return elementwise(operator.truediv)([ELEMENTWISE["Sum"](inputs, attributes), float(len(inputs))], attributes)


def _cast(inputs: Inputs, attributes: Attributes) -> Any:
    kind = attributes["to"]
    (value,) = inputs
    if isinstance(value, Tensor):
        if kind in FLOATS:
            return value if value.is_floating_point() else value.float()
        return value.bool() if kind == BOOLEAN else value.long()
    if isinstance(value, tuple):
        return tuple(_cast([each], attributes) for each in value)
    if kind == BOOLEAN:
        return bool(value)
    return (torch.sym_float if kind in FLOATS else torch.sym_int)(value)  # type: ignore[no-untyped-call]


def _shape(inputs: Inputs, attributes: Attributes) -> Any:
    (x,) = inputs
    sizes = tuple(x.shape) if isinstance(x, Tensor) else (len(x),) if isinstance(x, tuple) else ()
    return sizes[attributes.get("start", 0) : attributes.get("end")]


def _size(inputs: Inputs, attributes: Attributes) -> Any:
    return math.prod(_shape(inputs, {}))


def _filled(inputs: Inputs, attributes: Attributes) -> Any:
    """ConstantOfShape, with one axis or none."""
    (shape,) = inputs
    if not isinstance(shape, tuple) or len(shape) > 1:
        raise UnsupportedError("a tensor of a shape that is computed from the image")
    value = attributes.get("value", 0.0)
    return (value,) * shape[0] if shape else value


def _range(inputs: Inputs, attributes: Attributes) -> Any:
    start, limit, step = inputs
    if not all(isinstance(value, int) for value in inputs):
        raise UnsupportedError("a range of other than whole numbers")
    return tuple(range(start, limit, step))


def _reshape(inputs: Inputs, attributes: Attributes) -> Any:
    x, shape = inputs
    if not isinstance(x, Tensor):
        values = x if isinstance(x, tuple) else (x,)
        if len(shape) > 1:
            raise UnsupportedError("sizes in rows and columns")
        return values if shape else values[0]
    if not attributes.get("allowzero"):
        shape = tuple(x.shape[axis] if size == 0 else size for axis, size in enumerate(shape))
    return x.reshape(shape)


def _flattened(inputs: Inputs, attributes: Attributes) -> Any:
    (x,) = inputs
    axis = attributes.get("axis", 1) % (x.dim() + 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transposed(inputs: Inputs, attributes: Attributes) -> Any:
    (x,) = inputs
    return x.permute(attributes.get("perm") or tuple(reversed(range(x.dim()))))


def _axes(inputs: Inputs, attributes: Attributes) -> tuple[int, ...] | None:
    """Axes given as the second input, or, before opset 13 or 18, as an attribute."""
    axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attributes.get("axes")
    return (axes,) if isinstance(axes, int) else None if axes is None else tuple(axes)


def _unsqueezed(inputs: Inputs, attributes: Attributes) -> Any:
    x, axes = inputs[0], _axes(inputs, attributes) or ()
    if not isinstance(x, Tensor):
        if isinstance(x, tuple) or len(axes) > 1:
            raise UnsupportedError("sizes in rows and columns")
        return (x,)
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeezed(inputs: Inputs, attributes: Attributes) -> Any:
    x, axes = inputs[0], _axes(inputs, attributes)
    if isinstance(x, tuple):
        return x[0]
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _joined(inputs: Inputs, attributes: Attributes) -> Any:
    if not any(isinstance(value, Tensor) for value in inputs):
        return tuple(each for value in inputs for each in value)
    return torch.cat(list(inputs), dim=attributes["axis"])


def _split(inputs: Inputs, attributes: Attributes) -> Any:
    x, axis = inputs[0], attributes.get("axis", 0)
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attributes.get("split")
    length = len(x) if isinstance(x, tuple) else x.shape[axis]
    if sizes is None:
        share = -(-length // attributes["num_outputs"])
        sizes = [min(share, length - start) for start in range(0, length, share)]
    if isinstance(x, tuple):
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        return [x[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return list(torch.split(x, list(sizes), dim=axis))


def _sliced(inputs: Inputs, attributes: Attributes) -> Any:
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    if isinstance(x, tuple):
        return x[starts[0] : ends[0] : steps[0] if steps else 1]
    axes = axes if axes is not None else tuple(range(len(starts)))
    for axis, start, end, step in zip(axes, starts, ends, steps or (1,) * len(starts), strict=True):
        length = x.shape[axis]
        if step < 0:  # PyTorch counts upwards alone
            first, last = slice(start, end, step).indices(length)[:2]
            x, start, end, step = x.flip(axis), length - 1 - first, length - 1 - last, -step
        places: list[slice] = [slice(None)] * x.dim()
        places[axis] = slice(start, end, step)
        x = x[tuple(places)]
    return x


def _gathered(inputs: Inputs, attributes: Attributes) -> Any:
    x, places = inputs
    axis = attributes.get("axis", 0)
    if isinstance(x, tuple):
        return tuple(x[place] for place in places) if isinstance(places, tuple) else x[places]
    if isinstance(places, int):
        return x.select(axis, places)
    if isinstance(places, tuple):
        places = torch.tensor(places, device=x.device)
    places = torch.where(places < 0, places + x.shape[axis], places)
    axis = axis % x.dim()
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, places.flatten()).reshape(shape)


def _expanded(inputs: Inputs, attributes: Attributes) -> Any:
    x, shape = inputs
    if not isinstance(x, Tensor):
        values = x if isinstance(x, tuple) else (x,)
        return values * shape[0] if len(values) == 1 else values
    missing = len(shape) - x.dim()
    shape = (*x.shape[:-missing], *shape) if missing < 0 else shape
    own = (*(1 for _ in range(missing)), *x.shape)
    return x.expand(tuple(given if size == 1 else size for given, size in zip(shape, own, strict=True)))


def _reduced(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Operator:
    """Reduction along axes, all where none are named."""

    def apply(inputs: Inputs, attributes: Attributes) -> Any:
        x, axes = inputs[0], _axes(inputs, attributes)
        if not isinstance(x, Tensor):
            raise UnsupportedError("a reduction of sizes")
        if not axes and attributes.get("noop_with_empty_axes"):
            return x
        return function(x, axes or tuple(range(x.dim())), bool(attributes.get("keepdims", 1)))

    return apply


def _product(inputs: Inputs, attributes: Attributes) -> Any:
    """ReduceProd, for sizes alone."""
    if isinstance(inputs[0], Tensor):
        raise UnsupportedError("a product of features")
    found = math.prod(inputs[0])
    return (found,) if attributes.get("keepdims", 1) else found


def _on_tensors(function: Callable[[Tensor], Tensor], on_numbers: Callable[[Any], Any] | None = None) -> Operator:
    """Operator of one input."""

    def either(value: Any) -> Any:
        if isinstance(value, Tensor):
            return function(value)
        if on_numbers is None:
            raise UnsupportedError("of a size")
        return on_numbers(value)

    return elementwise(either)


ELEMENTWISE: dict[str, Operator] = {
    "Add": elementwise(operator.add),
    "Sub": elementwise(operator.sub),
    "Mul": elementwise(operator.mul),
    "Div": elementwise(_divided),
    "Pow": elementwise(_power),
    "Mod": elementwise(operator.mod),
    "Equal": elementwise(operator.eq),
    "Greater": elementwise(operator.gt),
    "GreaterOrEqual": elementwise(operator.ge),
    "Less": elementwise(operator.lt),
    "LessOrEqual": elementwise(operator.le),
    "Where": elementwise(_where),
    "Max": _folded(_larger),
    "Min": _folded(_smaller),
    "Sum": _folded(operator.add),
    "Mean": _mean,
    "Abs": _on_tensors(torch.abs, abs),
    "Neg": _on_tensors(torch.neg, operator.neg),
    "Floor": _on_tensors(torch.floor, math.floor),
    "Ceil": _on_tensors(torch.ceil, math.ceil),
    "Sqrt": _on_tensors(torch.sqrt, math.sqrt),
    "Exp": _on_tensors(torch.exp),
    "Log": _on_tensors(torch.log),
    "Erf": _on_tensors(torch.erf),
    "Tanh": _on_tensors(torch.tanh),
    "Sigmoid": _on_tensors(torch.sigmoid),
    "Reciprocal": _on_tensors(torch.reciprocal, lambda value: 1 / value),
    "Relu": _on_tensors(nn.functional.relu),
    "HardSwish": _on_tensors(nn.functional.hardswish),
    "Mish": _on_tensors(nn.functional.mish),
    "Softplus": _on_tensors(nn.functional.softplus),
    "Softsign": _on_tensors(nn.functional.softsign),
}
SHAPES: dict[str, Operator] = {
    "Cast": _cast,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Reshape": _reshape,
    "Flatten": _flattened,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Concat": _joined,
    "Split": _split,
    "Slice": _sliced,
    "Gather": _gathered,
    "Expand": _expanded,
    "Tile": lambda inputs, attributes: inputs[0].repeat(inputs[1]),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "ReduceProd": _product,
}
OPERATORS: dict[str, Operator] = {**ELEMENTWISE, **SHAPES, **LAYERS}
