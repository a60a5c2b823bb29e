"""What a translated graph computes is what ONNX Runtime computes, operator by operator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import onnx
import onnx.parser
from networks import Array, by_onnxruntime, graph, normal, random

from flawmap.backbones.probe import module_of
from flawmap.backbones.translate import translate
from flawmap.errors import ConfigError
from flawmap.model.onnx_backbone import OnnxBackbone, Program
from flawmap.model.onnx_operators import OPERATORS

W = {"w": normal(6, 3, 3, 3), "b": normal(6, seed=1)}
DEEP = {"w": normal(12, 3, 3, 3)}
FACTORS = {"s": normal(3, seed=2), "t": normal(3, seed=3), "m": normal(3, seed=4), "v": normal(3, seed=5) ** 2 + 0.1}


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


# A graph's body, its constants, and the opset where that matters.
CASES: dict[str, tuple[Any, ...]] = {
    "conv": ("y = Conv<pads=[1,1,1,1], strides=[2,2]>(image, w, b)", W),
    "conv with uneven pads": ("y = Conv<pads=[0,1,2,1], strides=[2,1]>(image, w)", W),
    "conv padded as TensorFlow does": ('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(image, w, b)', W),
    "conv padded before": ('y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(image, w, b)', W),
    "conv without pads": ('y = Conv<auto_pad="VALID", dilations=[2,1]>(image, w, b)', W),
    "depthwise conv": ("y = Conv<group=3, pads=[2,2,2,2], dilations=[2,2]>(image, w)", {"w": normal(6, 1, 3, 3)}),
    "conv of one axis": (
        "m = ReduceMean<keepdims=0>(image, a) z = Transpose<perm=[0,2,1]>(m) y = Conv<pads=[1,1]>(z, w)",
        {"a": ints(2), "w": normal(4, 13, 3)},
    ),
    "transposed conv": (
        "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(image, w)", {"w": normal(3, 5, 3, 3)},
    ),
    "conv with batch normalisation": (
        "c = Conv<pads=[1,1,1,1]>(image, w) y = BatchNormalization<epsilon=0.01>(c, s, t, m, v)",
        {**FACTORS, "w": normal(3, 3, 3, 3)},
    ),
    "batch normalisation alone": ("r = Relu(image) y = BatchNormalization(r, s, t, m, v)", FACTORS),
    "batch normalisation of what others read": (
        "c = Conv(image, w) n = BatchNormalization(c, s, t, m, v) y = Add(c, n)", {**FACTORS, "w": normal(3, 3, 1, 1)},
    ),
    "batch normalisation of vectors": (
        "m0 = GlobalAveragePool(image) f = Flatten(m0) y = BatchNormalization(f, s, t, m, v)", FACTORS,
    ),
    "instance normalisation": ("y = InstanceNormalization(image, s, t)", FACTORS),
    "group normalisation, factors by group": (
        "c = Conv(image, w) y = GroupNormalization<num_groups=3>(c, s, t)", {**FACTORS, "w": normal(12, 3, 1, 1)}, 18,
    ),
    "group normalisation, factors by channel": (
        "y = GroupNormalization<num_groups=1>(image, s, t)", FACTORS, 21,
    ),
    "layer normalisation": ("y = LayerNormalization(image, g, h)", {"g": normal(13), "h": normal(13, seed=1)}),
    "layer normalisation of three axes": ("y = LayerNormalization<axis=1, epsilon=0.01>(image, g)", {"g": normal(13)}),
    "max pooling": ("y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(image)", {}),
    "max pooling with uneven pads": (
        "n = Neg(image) y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]>(n)", {},
    ),
    "max pooling padded as TensorFlow does": (
        'n = Neg(image) y = MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(n)', {},
    ),
    "max pooling with a last window cut": (
        "y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1, dilations=[2,2]>(image)", {},
    ),
    "average pooling": ("y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(image)", {}),
    "average pooling with pads counted": (
        "y = AveragePool<kernel_shape=[3,2], pads=[1,0,0,1], count_include_pad=1>(image)", {},
    ),
    "average pooling with uneven pads": ("y = AveragePool<kernel_shape=[3,3], pads=[0,0,1,2]>(image)", {}),
    "average pooling with a last window cut": (
        "y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(image)", {},
    ),
    "global pooling": ("a = GlobalAveragePool(image) b = GlobalMaxPool(image) y = Concat<axis=1>(a, b)", {}),
    "padding with a number": ("y = Pad(image, p, c)", {"p": ints(0, 1, 2, 0, 0, 1, -3, 4), "c": scalar(0.5)}),
    "padding of named axes": ("y = Pad(image, p, , a)", {"p": ints(1, 2, 3, 4), "a": ints(-1, 2)}),
    "padding by reflection": ('y = Pad<mode="reflect">(image, p)', {"p": ints(0, 0, 2, 1, 0, 0, 0, 3)}),
    "padding by the edge": ('y = Pad<mode="edge">(image, p)', {"p": ints(0, 0, 2, 1, 0, 0, 0, 3)}),
    "products": ("y = MatMul(image, w)", {"w": normal(13, 7)}),
    "gemm": (
        "g = GlobalAveragePool(image) f = Flatten(g) y = Gemm<transB=1, alpha=0.5, beta=2.0>(f, w, b)",
        {"w": normal(5, 3), "b": normal(5)},
    ),
    "gemm of turned vectors": (
        "g = GlobalAveragePool(image) f = Flatten(g) t = Transpose(f) y = Gemm<transA=1>(t, w)", {"w": normal(3, 5)},
    ),
    "einsum": ('y = Einsum<equation="bchw,dc->bdhw">(image, w)', {"w": normal(4, 3)}),
    "softmax": ("a = Softmax(image) b = Softmax<axis=1>(image) y = Add(a, b)", {}),
    "enlarged by nearest": (
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(image, , s)',
        {"s": np.array([1, 1, 1.5, 2.5], np.float32)},
    ),
    "enlarged by nearest twice": ('y = Resize<mode="nearest">(image, , s)', {"s": np.array([1, 1, 2, 3], np.float32)}),
    "resized linearly": ('y = Resize<mode="linear">(image, , , s)', {"s": ints(2, 3, 17, 20)}),
    "resized with aligned corners": (
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(image, , , s)',
        {"s": ints(2, 3, 17, 20)},
    ),
    "resized by cubics": ('y = Resize<mode="cubic">(image, , , s)', {"s": ints(2, 3, 22, 26)}),
    "depth to space": ("c = Conv(image, w) y = DepthToSpace<blocksize=2>(c)", DEEP),
    "depth to space by columns": ('c = Conv(image, w) y = DepthToSpace<blocksize=2, mode="CRD">(c)', DEEP),
    "space to depth": ("c = Conv(image, w) y = SpaceToDepth<blocksize=3>(c)", {"w": normal(2, 3, 3, 2)}),
    "clip": ("y = Clip(image, l, h)", {"l": scalar(0.2), "h": scalar(0.7)}),
    "clip below alone": ("y = Clip(image, l)", {"l": scalar(0.2)}),
    "activations": (
        "n = Sub(image, h) a = Relu(n) b = LeakyRelu<alpha=0.2>(a) c = Elu<alpha=0.7>(n) d = Celu<alpha=0.6>(n)"
        " e = HardSigmoid<alpha=0.3>(n) f = HardSwish(n) g = Softplus(n) i = Softsign(n) j = Mish(n) k = PRelu(n, p)"
        " l = Sigmoid(n) m = Tanh(n) o = Erf(n) q = LeakyRelu(n) y = Sum(b, c, d, e, f, g, i, j, k, l, m, o, q)",
        {"h": scalar(0.5), "p": normal(3, 1, 1)},
    ),
    "gelu": ('a = Gelu(image) b = Gelu<approximate="tanh">(image) y = Concat<axis=1>(a, b)', {}, 20),
    "swish": ("y = Swish<alpha=2.0>(image)", {}, 24),
    "arithmetic": (
        "n = Sub(image, h) a = Abs(n) e = Exp(n) s = Sqrt(a) l = Log(e) r = Reciprocal(e) p = Pow(n, two)"
        " q = Pow(e, n) d = Div(l, e) z = Neg(d) t = Mul(s, two) c = Ceil(t) f = Floor(e)"
        " y = Sum(a, s, l, r, p, q, z, c, f)",
        {"h": scalar(0.5), "two": scalar(2)},
    ),
    "comparisons": (
        "n = Sub(image, h) a = Greater(image, h) b = LessOrEqual(n, t) c = Where(a, image, n) d = Where(b, c, t)"
        " e = Less(n, t) f = GreaterOrEqual(image, h) g = Equal(image, image) i = Cast<to=1>(e) j = Cast<to=1>(f)"
        " k = Cast<to=1>(g) l = Max(n, t, image) m = Min(n, h) o = Mean(d, i, j) y = Sum(o, k, l, m)",
        {"h": scalar(0.5), "t": normal(3, 1, 1)},
    ),
    "remainders": ("y = Mod<fmod=1>(image, h)", {"h": scalar(0.3)}),
    "reductions": (
        "a = ReduceMean(image, x) b = ReduceMax(image, x) c = ReduceMin<keepdims=1>(image, x) d = ReduceSum(image, x)"
        " e = ReduceL2(image, x) f = ReduceSumSquare(image, x) g = ReduceMean(image) y = Sum(a, b, c, d, e, f, g)",
        {"x": ints(-1, 1)},
    ),
    "reductions as they were": ("a = ReduceMean<axes=[2,3], keepdims=0>(image) y = Relu(a)", {}, 13),
    "slices": (
        "a = Slice(image, s, e, x, t) b = Slice(image, z, f) y = Concat<axis=-1>(a, b)",
        {"s": ints(-1, 1), "e": ints(-(2**63), 2**63 - 1), "x": ints(3, 2), "t": ints(-2, 3), "z": ints(0, 0, 7, 6),
         "f": ints(9, 9, 11, 13)},
    ),
    "splits": (
        "a, b = Split<axis=3>(image, s) c, d, e = Split<axis=1, num_outputs=3>(a) f = Concat<axis=1>(d, e, c)"
        " y = Concat<axis=3>(b, f)",
        {"s": ints(4, 9)},
    ),
    "gathered": (
        "a = Gather<axis=1>(image, one) u = Unsqueeze(a, x) b = Gather<axis=1>(image, some)"
        " c = Gather<axis=2>(image, rows) d = ReduceMean(c, z) e = Squeeze(d, z) y = Sum(u, b, e)",
        {"one": ints(-1)[0], "x": ints(1), "some": ints(2, 0, -1), "rows": ints(*range(11))[None], "z": ints(2)},
    ),
    "shapes": (
        "s = Shape(image) b = Gather(s, zero) u = Unsqueeze(b, first) h = Shape<start=2, end=3>(image)"
        " c = Concat<axis=0>(u, three, minus, h) r = Reshape(image, c) f = Flatten<axis=2>(r) q = Squeeze(h)"
        " o = Mul(q, two) p = Unsqueeze(o, first) l = Cast<to=1>(p) n = Size(h) k = Cast<to=1>(n) e = Div(f, l)"
        " y = Mul(e, k)",
        {"zero": ints(0)[0], "first": ints(0), "three": ints(3), "minus": ints(-1), "two": ints(2)[0]},
    ),
    "sizes computed": (
        "s = Shape(image) q = Slice(s, two, four) f = Cast<to=1>(q) g = Mul(f, half) d = Floor(g) i = Cast<to=7>(d)"
        " m = Max(i, two) a, b = Split(s, twos) t = Concat<axis=0>(a, m) y = Resize<mode=\"linear\">(image, , , t)",
        {"two": ints(2), "four": ints(4), "half": scalar(1.7), "twos": ints(2, 2)},
    ),
    "expanded": (
        "s = Shape(image) b = Gather(s, zero) u = Unsqueeze(b, zeros) c = Concat<axis=0>(u, ones, ones, ones)"
        " n = Shape(c) f = ConstantOfShape<value=int64[1] {1}>(n) g = Mul(f, minus) e = Equal(c, g) w = Where(e, f, c)"
        " x = Expand(k, w) y = Concat<axis=2>(x, image)",
        {"zero": ints(0)[0], "zeros": ints(0), "ones": ints(-1), "minus": ints(-1)[0], "k": normal(1, 3, 2, 13)},
    ),
    "elements counted": (
        "s = Shape(image) p = ReduceProd<keepdims=0>(s) f = Cast<to=1>(p) r = Range(zero, three, one)"
        " g = Gather<axis=1>(image, r) t = Tile(g, i) d = Div(f, k) y = Mul(t, d)",
        {"zero": ints(0)[0], "one": ints(1)[0], "three": ints(3)[0], "i": ints(1, 1, 2, 1), "k": scalar(100)},
    ),
    "dropout and identity": ("a = Identity(image) b = Dropout(a) c = Relu(b) y = Identity(c)", {}),
}  # fmt: skip


def module(model: onnx.ModelProto) -> OnnxBackbone:
    """The graph as PyTorch runs it, given pixels as they are."""
    program, weights = translate(model, "net.onnx")
    program = Program.from_json(program._replace(order="bgr").to_json())  # as a bundle keeps it
    return module_of(program, weights)


def built(case: tuple[Any, ...]) -> onnx.ModelProto:
    body, weights, opset = (*case, 18)[:3]
    return graph(body, weights, opset=opset)


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnx_runtime_computes(name: str) -> None:
    model, images = built(CASES[name]), random(2, 3, 11, 13)
    (wanted,) = by_onnxruntime(model, images)
    with torch.no_grad():
        (found,) = module(model)(images)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 0.01, "a graph that says something"


def test_every_operator_has_a_case() -> None:
    used = {node.op_type for case in CASES.values() for node in built(case).graph.node}
    assert OPERATORS.keys() - {"ChannelAffine"} <= used


def test_operators_of_an_older_opset_are_brought_to_a_newer_one() -> None:
    body = "c = Clip<min=0.1, max=0.6>(image) s, t = Split<axis=3, split=[6, 7]>(c) y = Pad<pads=[0,0,1,0,0,0,0,2]>(t)"
    head = '<ir_version: 4, opset_import: ["": 9]> old (float[2, 3, 11, 13] image) => (float[2, 3, 12, 9] y)'
    model = onnx.parser.parse_model(f"{head} {{ {body} }}")
    images = random(2, 3, 11, 13)
    torch.testing.assert_close(module(model)(images)[0], by_onnxruntime(model, images)[0])


def test_what_follows_from_constants_alone_is_computed_once_whatever_its_operators() -> None:
    places = np.indices((4, 4)).reshape(2, 16).T.astype(np.int64)
    weights = {"grid": normal(4, 4), "places": places, "zero": ints(0)[0], "shape": ints(1, 1, 16, 1)}
    body = "g = GatherND(grid, places) c = CumSum(g, zero) t = Reshape(c, shape) y = Mul(image, t)"
    model, images = graph(body, weights), random(1, 3, 16, 16)
    backbone = module(model)
    assert [step.operator for step in backbone.program.steps] == ["Mul"]
    torch.testing.assert_close(backbone(images)[0], by_onnxruntime(model, images)[0])


def test_batch_normalisation_becomes_part_of_the_convolution_before_it() -> None:
    backbone = module(built(CASES["conv with batch normalisation"]))
    assert [step.operator for step in backbone.program.steps] == ["Conv"]


def test_a_classifier_behind_the_maps_is_left_out_with_its_operators() -> None:
    backbone = module(graph("m = Conv(image, w) y = Relu(m) k, i = TopK(m, one)", {**W, "one": ints(1)}))
    assert [step.operator for step in backbone.program.steps] == ["Conv", "Relu"]


def test_functions_of_a_graph_are_put_in_their_place() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 18, "local": 1]>
    net (float[N, 3, H, W] image) => (float[N, 3, H, W] y) { y = local.Twice(image) }
    <domain: "local", opset_import: ["": 18]> Twice (x) => (z) { z = Add(x, x) }
    """
    images = random(1, 3, 4, 4)
    torch.testing.assert_close(module(onnx.parser.parse_model(text))(images)[0], 2 * images)


def test_the_first_operator_that_is_not_known_is_named() -> None:
    body = "a = Relu(image) k = Hardmax(a) u = Unique(k) y = Relu(k)"
    with pytest.raises(ConfigError, match=r"^net.onnx has the operator Hardmax, which .*docs/backbones\.md"):
        translate(graph(body, {}), "net.onnx")
    model = graph("y = Relu(image)", {})
    model.graph.node[0].domain, model.graph.node[0].name = "com.microsoft", "fused"
    with pytest.raises(ConfigError, match=r"operator com\.microsoft\.Relu \(node fused\)"):
        translate(model, "net.onnx")


def test_a_quantized_network_is_refused_by_its_operator() -> None:
    body = "q = QuantizeLinear(image, s, z) y = DequantizeLinear(q, s, z)"
    with pytest.raises(ConfigError, match="operator QuantizeLinear"):
        translate(graph(body, {"s": scalar(0.1), "z": np.array(0, np.uint8)}), "net.onnx")


def test_weights_that_half_precision_cannot_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"weights of up to 7e\+04, and half precision"):
        translate(graph("y = Conv(image, w)", {"w": np.full((6, 3, 3, 3), 70_000, np.float32)}), "net.onnx")


def test_few_numbers_are_kept_exactly_and_many_are_weights() -> None:
    weights = {"few": np.array([1e-9, 3.3, 7]).astype(np.float32).reshape(3, 1, 1), "many": normal(3, 4, 5)}
    program, tensors = translate(graph("a = Add(image, few) y = Mul(a, many)", weights), "net.onnx")
    assert len(tensors) == 1 and next(iter(tensors.values())).shape == (3, 4, 5)
    kept = [value for value in program.constants.values() if isinstance(value, dict)]
    assert math.isclose(kept[0]["values"][0], 1e-9, rel_tol=1e-6)
    assert program.weights.keys() == tensors.keys()


def test_values_are_let_go_once_nothing_needs_them() -> None:
    backbone = module(graph("a = Relu(image) b = Neg(a) c = Add(a, b) y = Relu(c)", {}))
    first = [step.outputs[0] for step in backbone.program.steps]
    assert backbone._done == [["image"], [], sorted(first[:2]), [first[2]]]
