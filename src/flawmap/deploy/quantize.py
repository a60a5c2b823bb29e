"""INT8 by NNCF's post-training quantization, fitted to good images. The code search stays in full precision.

What is left out: the resize, the nearest-code searches (the only matrix products), and with `encoder` the networks that
the codes of the image follow from.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flawmap.deploy.agreement import Pixels
from flawmap.deploy.artefact import package
from flawmap.deploy.graph import CHOICES, RESIZE
from flawmap.deploy.resize import IMAGE

if TYPE_CHECKING:
    import onnx

SEARCH = ["MatMul", "Gemm"]  # the operations of the code searches
ENCODED = CHOICES[:2]  # what comes of encoding the image


def quantize_onnx(whole: onnx.ModelProto, images: Sequence[Pixels], encoder: bool = False) -> onnx.ModelProto:
    """An inspection graph in INT8 where that helps; `encoder`: that of the image too."""
    makers = {name: node for node in whole.graph.node for name in node.output}
    waiting, kept = list(ENCODED), set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in kept:
            kept.add(node.name)
            waiting += list(node.input)
    # ONNX Runtime has no transposed convolution in INT8, and would only convert there and back
    types = {node.op_type for node in whole.graph.node} & {*SEARCH, "ConvTranspose"}
    if encoder:
        kept = {name for name in kept if name.startswith(RESIZE)}
    quantized: onnx.ModelProto = _quantize(whole, images, sorted(kept), sorted(types))
    return quantized


def quantize_openvino(model: Any, images: Sequence[Pixels], encoder: bool = False) -> Any:
    """An OpenVINO model in INT8 where that helps; `encoder`: that of the image too."""
    waiting = [output.get_node() for output in model.outputs if output.get_any_name() in ENCODED]
    kept = set()
    while waiting:
        op = waiting.pop()
        if op.get_friendly_name() not in kept:
            kept.add(op.get_friendly_name())
            waiting += [value.get_source_output().get_node() for value in op.inputs()]
    named = {op.get_friendly_name(): op.get_type_name() for op in model.get_ops()}
    kept = {name for name in kept if named[name] not in ("Constant", "Parameter", "Result")}
    if encoder:
        kept = {name for name in kept if name.startswith(RESIZE)}
    types = set(named.values()) & set(SEARCH)
    return _quantize(model, images, sorted(kept), sorted(types))


def _quantize(model: Any, images: Sequence[Pixels], names: list[str], types: list[str]) -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # no usage statistics leave the machine
    nncf = package("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset(list(images), lambda image: {IMAGE: image[None]})
    left_out = nncf.IgnoredScope(names=names, types=types, validate=False)
    return nncf.quantize(
        model, data, subset_size=len(images), ignored_scope=left_out, preset=nncf.QuantizationPreset.MIXED
    )
