"""Translate an ONNX graph into a program that PyTorch runs (model/onnx_backbone.py).

Nodes with constant inputs alone are evaluated here by ONNX's own reference, whatever their operators. Batch
normalisation is folded into the convolution before it, or becomes a factor and a shift for each channel. Nodes that no
feature map depends on, such as a classifier, are left out. The rest must be made of `OPERATORS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flawmap.errors import ConfigError, first_line
from flawmap.model.onnx_backbone import IMAGE, Program, Step
from flawmap.model.onnx_operators import OPERATORS

if TYPE_CHECKING:
    import onnx

OLDEST = 13  # opset; older graphs are brought to it by ONNX's own converter
SMALL = 8  # numbers in a tensor that is kept as it is written; larger ones are weights, stored in half precision
HALF_MAX = 65504.0  # the largest number of half precision
SAME = ("Identity", "Dropout")  # operators that pass on what they are given
OWN = ("", "ai.onnx")  # domains of ONNX's own operators
PYTHON = {("Resize", 2), ("Resize", 3), ("Clip", 1), ("Clip", 2), ("Pad", 2)}  # floating inputs that are numbers

Array = np.ndarray[Any, Any]


class Translated(NamedTuple):
    """Program, its maps not yet measured, and its weights by their names in it."""

    program: Program
    weights: dict[str, Array]


class _Node(NamedTuple):
    operator: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


def translate(model: onnx.ModelProto, file: str) -> Translated:
    """Translate a checked ONNX graph with one input. Raises ConfigError, naming `file`, for operators not known."""
    import onnx.inliner

    model = onnx.inliner.inline_local_functions(model)
    opset = next((entry.version for entry in model.opset_import if entry.domain in OWN), 0)
    if opset < OLDEST:
        model, opset = _renewed(model, opset, file), OLDEST
    nodes, constants = _live(model, opset, file)
    nodes = _needed(nodes, [output.name for output in model.graph.output])
    _check_operators(nodes, file)
    nodes, constants = _without_normalisation(nodes, constants, {output.name for output in model.graph.output})
    return _numbered(nodes, constants, model, file)


def _renewed(model: onnx.ModelProto, opset: int, file: str) -> onnx.ModelProto:
    import onnx.version_converter

    try:
        renewed: onnx.ModelProto = onnx.version_converter.convert_version(model, OLDEST)
    except Exception as problem:  # the converter has kinds of its own
        raise ConfigError(
            f"{file} is of opset {opset}, and could not be brought to {OLDEST} ({first_line(problem)}); export it anew"
        ) from problem
    return renewed


def _live(model: onnx.ModelProto, opset: int, file: str) -> tuple[list[_Node], dict[str, Array]]:
    """Nodes that depend on the image, in order and without identities, and all constants. Raises ConfigError."""
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known = constants.keys()
    (given,) = (entry.name for entry in model.graph.input if entry.name not in known)
    alias = {given: IMAGE}
    nodes = []
    for proto in model.graph.node:
        node = _read(proto, alias, file)
        if node.operator in SAME and node.inputs[0] not in constants:
            alias[node.outputs[0]] = node.inputs[0]
        elif all(name in constants for name in node.inputs if name) and not node.operator.startswith("Random"):
            constants |= _computed(proto, alias, constants, opset, file)
        else:
            nodes.append(node)
    outputs = [output.name for output in model.graph.output]
    for output in outputs:
        source = alias.get(output, output)
        if source == IMAGE or source in constants:
            raise ConfigError(f"{file}: its output {output} does not follow from the image; a feature map is needed")
        if source != output:  # a map under the name that the graph has for it
            nodes.append(_Node("Identity", output, [source], [output], {}))
    return nodes, constants


def _read(proto: onnx.NodeProto, alias: Mapping[str, str], file: str) -> _Node:
    import onnx.helper

    if proto.domain not in OWN:
        raise ConfigError(_unknown(file, f"{proto.domain}.{proto.op_type}", proto.name))
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in proto.attribute}
    inputs = [alias.get(name, name) for name in proto.input]
    while inputs and not inputs[-1]:
        inputs.pop()
    return _Node(proto.op_type, proto.name, inputs, list(proto.output), attributes)


def _unknown(file: str, operator: str, node: str) -> str:
    where = f" (node {node})" if node else ""
    return (
        f"{file} has the operator {operator}{where}, which flawmap does not translate; export features from before it, "
        "or without it (docs/backbones.md lists what there is)"
    )


def _computed(
    proto: onnx.NodeProto, alias: Mapping[str, str], constants: Mapping[str, Array], opset: int, file: str
) -> dict[str, Array]:
    """Evaluate a node on constants. Raises ConfigError."""
    from onnx import TypeProto, helper
    from onnx.reference import ReferenceEvaluator

    feeds = {name: constants[alias.get(name, name)] for name in proto.input if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    names = [name for name in proto.output if name]
    outputs = [helper.make_value_info(name, TypeProto()) for name in names]
    try:
        graph = helper.make_graph([proto], "constant", inputs, outputs)
        found = ReferenceEvaluator(graph, opsets={"": opset}).run(None, feeds)
    except Exception as problem:  # whatever an operator's own reference raises
        raise ConfigError(_unknown(file, proto.op_type, proto.name)) from problem
    return {name: np.asarray(array) for name, array in zip(names, found, strict=True)}


def _needed(nodes: Sequence[_Node], outputs: Iterable[str]) -> list[_Node]:
    """Nodes that outputs depend on, with "" for those of their own outputs that nothing depends on."""
    wanted, found = {*outputs}, []
    for node in reversed(nodes):
        made = [name if name in wanted else "" for name in node.outputs]
        if any(made):
            wanted.update(node.inputs)
            found.append(node._replace(outputs=made))
    return found[::-1]


def _check_operators(nodes: Iterable[_Node], file: str) -> None:
    for node in nodes:
        made = sum(bool(name) for name in node.outputs)
        known = {*OPERATORS, *SAME, "BatchNormalization"}
        if node.operator not in known or (made > 1 and node.operator != "Split"):
            raise ConfigError(_unknown(file, node.operator, node.name))
        if node.operator == "BatchNormalization" and node.attributes.get("training_mode"):
            raise ConfigError(f"{file} normalises by the batch, as in training; export it in evaluation mode")


def _without_normalisation(
    nodes: Sequence[_Node], constants: Mapping[str, Array], outputs: set[str]
) -> tuple[list[_Node], dict[str, Array]]:
    """Fold batch normalisation into the convolution before it, if nothing else reads that, else into ChannelAffine."""
    constants = dict(constants)
    readers: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    made: dict[str, int] = {}  # where in `found` a value is made
    found: list[_Node] = []
    for node in nodes:
        if node.operator == "BatchNormalization" and all(name in constants for name in node.inputs[1:]):
            scale, shift = _factors(node, constants)
            source, (output, *_) = node.inputs[0], node.outputs
            before = found[made[source]] if source in made else None
            alone = readers[source] == 1 and source not in outputs
            if before is not None and alone and before.operator == "Conv" and _constant(before, constants):
                weight = constants[before.inputs[1]].astype(np.float64)
                bias = constants[before.inputs[2]].astype(np.float64) if len(before.inputs) > 2 else 0.0
                names = [f"{output}/weight", f"{output}/bias"]
                constants[names[0]] = weight * scale.reshape(-1, *(1 for _ in weight.shape[1:]))
                constants[names[1]] = bias * scale + shift
                folded = before._replace(inputs=[before.inputs[0], *names], outputs=[output])
                found[made[source]] = folded
                made[output] = made[source]
                continue
            names = [f"{output}/scale", f"{output}/shift"]
            constants |= dict(zip(names, (scale, shift), strict=True))
            node = _Node("ChannelAffine", node.name, [source, *names], [output], {})
        made |= {name: len(found) for name in node.outputs if name}
        found.append(node)
    return found, constants


def _constant(convolution: _Node, constants: Mapping[str, Array]) -> bool:
    return all(name in constants for name in convolution.inputs[1:])


def _factors(node: _Node, constants: Mapping[str, Array]) -> tuple[Array, Array]:
    """Factor and shift of each channel, equal to a batch normalisation."""
    weight, bias, mean, variance = (constants[name].astype(np.float64) for name in node.inputs[1:])
    scale = weight / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    return scale, bias - mean * scale


class _Names:
    """Short names of values, and the constants and weights among them."""

    def __init__(self, constants: Mapping[str, Array], file: str) -> None:
        self.file, self._constants = file, constants
        self._names: dict[tuple[str, bool], str] = {}
        self.kept: dict[str, Any] = {}
        self.weights: dict[str, Array] = {}

    def value(self, name: str) -> str:
        """Short name of a value that depends on the image, "" for none."""
        if name in ("", IMAGE):
            return name
        return self._names.setdefault((name, False), f"v{len(self._names)}")

    def read(self, name: str, plain: bool) -> str:
        """Short name of an input; `plain`: as numbers, if it is a constant."""
        if name not in self._constants:
            return self.value(name)
        if (name, plain) not in self._names:
            self._names[name, plain] = short = f"c{len(self._names)}"
            self._keep(short, self._constants[name], plain)
        return self._names[name, plain]

    def _keep(self, short: str, array: Array, plain: bool) -> None:
        kind = {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(array.dtype.kind)
        if array.dtype.name == "bfloat16":
            kind = "float"
        if kind is None:
            raise ConfigError(f"{self.file} computes with {array.dtype}, which flawmap does not translate")
        if kind == "float":
            array = array.astype(np.float32)
        if array.ndim == 0 or (array.ndim == 1 and (kind == "int" or plain)):
            self.kept[short] = array.item() if array.ndim == 0 else tuple(array.tolist())
        elif kind == "float" and array.size > SMALL:
            self.weights[short] = array
        else:
            self.kept[short] = {"kind": kind, "shape": array.shape, "values": array.flatten().tolist()}


def _numbered(nodes: Sequence[_Node], constants: Mapping[str, Array], model: onnx.ModelProto, file: str) -> Translated:
    names = _Names(constants, file)
    steps = []
    alias: dict[str, str] = {}
    for node in nodes:
        if node.operator in SAME:
            alias[node.outputs[0]] = alias.get(node.inputs[0], node.inputs[0])
            continue
        inputs = [
            names.read(alias.get(name, name), (node.operator, place) in PYTHON)
            for place, name in enumerate(node.inputs)
        ]
        outputs = [names.value(name) for name in node.outputs]
        steps.append(Step(node.operator, tuple(inputs), tuple(outputs), _written(node, file)))
    for array in names.weights.values():
        if not (np.isfinite(array).all() and np.abs(array).max() <= HALF_MAX):
            raise ConfigError(
                f"{file} has weights of up to {np.abs(array).max():.2g}, and half precision, in which a bundle keeps "
                f"them, holds {HALF_MAX:g}; scale them, or leave that layer out"
            )
    maps = tuple(names.value(alias.get(output.name, output.name)) for output in model.graph.output)
    shapes = {name: tuple(array.shape) for name, array in names.weights.items()}
    return Translated(Program(tuple(steps), shapes, names.kept, maps), names.weights)


def _written(node: _Node, file: str) -> dict[str, Any]:
    """Attributes of a node as numbers, strings, and lists of these. Raises ConfigError for others."""
    from onnx import TensorProto, numpy_helper

    found: dict[str, Any] = {}
    for name, value in node.attributes.items():
        if isinstance(value, bytes):
            found[name] = value.decode()
        elif isinstance(value, TensorProto):
            found[name] = numpy_helper.to_array(value).reshape(-1)[0].item()
        elif isinstance(value, int | float | str):
            found[name] = value
        elif isinstance(value, Sequence | Iterable) and all(isinstance(each, int | float) for each in value):
            found[name] = [*value]
        else:
            raise ConfigError(_unknown(file, node.operator, node.name))
    return found
