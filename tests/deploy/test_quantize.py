"""INT8 by NNCF: the network's convolutions are quantized, the search for codes is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deploy_helpers import remembering

from flawmap.bundle import Bundle, build
from flawmap.config import load_recipe
from flawmap.deploy.artefact import open_session, package
from flawmap.deploy.graph import CHOICES, DRAWINGS, RESIZE, inspection_graph, network_graph, write_about
from flawmap.deploy.operations import JUDGED
from flawmap.deploy.quantize import quantize_onnx, quantize_openvino

TINY = Path(__file__).parents[1] / "tiny.toml"


@pytest.fixture(scope="module")
def whole() -> onnx.ModelProto:
    # As large as real codebooks: an exporter computes small ones beforehand
    recipe = load_recipe(TINY, ['model.norm="batch"', "model.codes=1024", "model.code_length=32"])
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = build(recipe.model, with_refinement=False).eval()
    size = recipe.image
    return inspection_graph(network_graph(model, size.height, size.width), Bundle(model, recipe, None, {}))


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(60, 200, (6, 64, 64, 3), dtype=np.uint8))


def searches(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [
        node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm") and not node.name.startswith(RESIZE)
    ]


def test_what_codes_are_searched_by_are_constants_of_the_graph(whole: onnx.ModelProto) -> None:
    constants = {tensor.name for tensor in whole.graph.initializer}
    found = searches(whole)
    assert len(found) >= 4
    for node in found:
        assert set(node.input[1:]) <= constants


def test_onnx_in_int8_keeps_the_search_in_full_precision(
    whole: onnx.ModelProto, photos: list[np.ndarray], tmp_path: Path
) -> None:
    small = quantize_onnx(whole, photos)
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("QuantizeLinear") > 5
    from_codes = {node.output[0] for node in small.graph.node if node.op_type == "DequantizeLinear"}
    for node in searches(small):
        assert from_codes.isdisjoint(node.input)
    write_about(small, {"format": 1})
    onnx.save(small, tmp_path / "small.onnx")
    assert open_session(tmp_path / "small.onnx")(photos[0][None])["map"].shape == (1, 64, 64)


def test_openvino_in_int8_keeps_the_search_in_full_precision(whole: onnx.ModelProto, photos: list[np.ndarray]) -> None:
    openvino = package("openvino")
    small = quantize_openvino(openvino.Core().read_model(whole.SerializeToString(), b""), photos)
    assert sum(op.get_type_name() == "FakeQuantize" for op in small.get_ops()) > 5
    products = [op for op in small.get_ops() if op.get_type_name() == "MatMul"]
    found = [op for op in products if not op.get_friendly_name().startswith(RESIZE)]
    assert len(found) >= 4
    for op in found:  # in INT8 what they are searched by would be multiplied up from small integers
        assert op.input_value(1).get_node().get_type_name() == "Constant"


@pytest.mark.parametrize("exact", [True, False])
def test_only_an_exact_graph_spells_out_instance_normalisation(exact: bool) -> None:
    recipe = load_recipe(TINY, ['model.norm="instance"'])
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = build(recipe.model, with_refinement=False).eval()
    graph = network_graph(model, recipe.image.height, recipe.image.width, exact=exact)
    kinds = {node.op_type for node in graph.graph.node}
    assert ("InstanceNormalization" in kinds) is not exact


def test_detection_may_stay_in_full_precision(whole: onnx.ModelProto, photos: list[np.ndarray]) -> None:
    openvino = package("openvino")
    drawn = [name for name in DRAWINGS for node in whole.graph.node if name in node.output]
    assert sorted(drawn) == sorted(DRAWINGS)
    for detection in (True, False):
        small = quantize_onnx(whole, photos, detection=detection)
        judging = before(small, JUDGED) - before(small, DRAWINGS)
        assert ("QuantizeLinear" in {node.op_type for node in small.graph.node if node.name in judging}) is detection
        drawing = {node.op_type for node in small.graph.node if node.name in before(small, DRAWINGS)}
        assert "QuantizeLinear" in drawing
    model = openvino.Core().read_model(whole.SerializeToString(), b"")
    counts = [
        sum(op.get_type_name() == "FakeQuantize" for op in quantize_openvino(model, photos, detection=yes).get_ops())
        for yes in (True, False)
    ]
    assert 0 < counts[1] < counts[0]


def before(graph: onnx.ModelProto, outputs: tuple[str, ...]) -> set[str]:
    """The names of all nodes that these outputs follow from."""
    makers = {name: node for node in graph.graph.node for name in node.output}
    waiting, found = list(outputs), set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found


def test_distances_from_good_parts_stay_in_full_precision_in_int8(photos: list[np.ndarray]) -> None:
    recipe, model = remembering("encoder", "imagenet")
    whole = inspection_graph(network_graph(model, 64, 64), Bundle(model, recipe, None, {}))

    made = {name: node for node in whole.graph.node for name in node.output}
    searching, waiting = set(), [made[name] for name in CHOICES]
    while waiting:
        node = waiting.pop()
        if node.name not in searching:
            searching.add(node.name)
            waiting += [made[name] for name in node.input if name in made]
    distances = {node.name for node in searches(whole) if node.name not in searching}
    assert len(distances) == 3, "both Gaussians, and the places that are remembered"

    openvino = package("openvino")
    small = quantize_openvino(openvino.Core().read_model(whole.SerializeToString(), b""), photos)
    operations = small.get_ordered_ops()
    assert sum(op.get_type_name() == "FakeQuantize" for op in operations) > 20, "the networks are quantized"
    followed: set[str] = set()
    for op in operations:
        made_by = [value.get_source_output().get_node() for value in op.inputs()]
        if op.get_friendly_name() in distances or followed & {each.get_friendly_name() for each in made_by}:
            followed.add(op.get_friendly_name())
            assert "FakeQuantize" not in {op.get_type_name(), *(each.get_type_name() for each in made_by)}

    read_by_convolutions: set[str] = set()  # directly, or by what follows from it
    for op in reversed(operations):
        readers = {each.get_node() for value in op.outputs() for each in value.get_target_inputs()}
        if any("Conv" in each.get_type_name() or each.get_friendly_name() in read_by_convolutions for each in readers):
            read_by_convolutions.add(op.get_friendly_name())
    behind = [
        op for op in operations
        if op.get_friendly_name() not in read_by_convolutions and "Conv" not in op.get_type_name()
    ]  # fmt: skip
    assert {"AvgPool", "Multiply"} <= {op.get_type_name() for op in behind}, "the map is guided there"
    assert "FakeQuantize" not in {op.get_type_name() for op in behind}
    assert distances <= followed and len(followed) > 30

    graph = quantize_onnx(whole, photos)
    assert sum(node.op_type == "QuantizeLinear" for node in graph.graph.node) > 20
    seen: set[str] = set()
    quantized = {name for node in graph.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    for node in graph.graph.node:
        if node.name in distances or seen & {*node.input}:
            seen |= {*node.output}
            assert node.op_type != "QuantizeLinear" and not quantized & {*node.input}
    assert len(seen) > 30
