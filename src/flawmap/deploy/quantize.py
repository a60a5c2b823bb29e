"""INT8 by NNCF's post-training quantization, fitted to good images. The code search stays in full precision.

What is left out: the resize; all matrix products, which are the nearest-code searches and the distances of features
from good parts' (model/familiarity.py), whose small differences of large sums eight bits do not hold; all arithmetic
behind the last convolutions, distances among it; unless `encoder` the networks that the codes of the image follow from,
and unless `detection` what judges the drawings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flawmap.deploy.agreement import Pixels
from flawmap.deploy.artefact import package
from flawmap.deploy.graph import CHOICES, RESIZE
from flawmap.deploy.operations import Operations, operations_of
from flawmap.deploy.resize import IMAGE

if TYPE_CHECKING:
    import onnx

PRODUCTS = ["MatMul", "Gemm"]  # the operations of the code searches and of distances from good parts
ENCODED = CHOICES[:2]  # what comes of encoding the image


def quantize_onnx(
    whole: onnx.ModelProto, images: Sequence[Pixels], encoder: bool = False, detection: bool = True
) -> onnx.ModelProto:
    """An inspection graph in INT8 where that helps; `encoder`, `detection`: these too."""
    made_by = {name: node.name for node in whole.graph.node for name in node.output}
    makers = {node.name: [made_by[name] for name in node.input if name in made_by] for node in whole.graph.node}
    graph = Operations(makers, {node.name: node.op_type for node in whole.graph.node}, made_by)
    package("onnxruntime").set_default_logger_severity(3)  # NNCF's sessions warn of what they tidy up
    # ONNX Runtime has no transposed convolution in INT8, and would only convert there and back
    types = {*graph.types.values()} & {*PRODUCTS, "ConvTranspose"}
    quantized: onnx.ModelProto = _quantize(whole, images, _kept(graph, encoder, detection), sorted(types))
    return quantized


def quantize_openvino(model: Any, images: Sequence[Pixels], encoder: bool = False, detection: bool = True) -> Any:
    """An OpenVINO model in INT8 where that helps; `encoder`, `detection`: these too."""
    graph = operations_of(model)
    kept = [name for name in _kept(graph, encoder, detection) if graph.types[name] != "Result"]
    return _quantize(model, images, kept, sorted({*graph.types.values()} & {*PRODUCTS}))


def _kept(graph: Operations, encoder: bool, detection: bool) -> list[str]:
    """The names of what stays in full precision."""
    encoding = graph.before(ENCODED)
    kept = {name for name in encoding if name.startswith(RESIZE)} if encoder else encoding
    judging = graph.judging()
    kept |= judging - graph.before_operations(graph.convolutions(judging))
    return sorted(kept | (set() if detection else judging))


def _quantize(model: Any, images: Sequence[Pixels], names: list[str], types: list[str]) -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # no usage statistics leave the machine
    nncf = package("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset(list(images), lambda image: {IMAGE: image[None]})
    left_out = nncf.IgnoredScope(names=names, types=types, validate=False)
    return nncf.quantize(
        model, data, subset_size=len(images), ignored_scope=left_out, preset=nncf.QuantizationPreset.MIXED
    )
