"""INT8 by NNCF's post-training quantization, fitted to good images. The code search stays in full precision.

What is left out: the resize; all matrix products, which are the nearest-code searches and the distances of features
from good parts' (model/familiarity.py), whose small differences of large sums eight bits do not hold; all arithmetic
behind the last convolutions, distances among it; unless `encoder` the networks that the codes of the image follow from,
and unless `detection` what judges the drawings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flawmap.deploy.agreement import Pixels
from flawmap.deploy.artefact import package
from flawmap.deploy.graph import CHOICES, DRAWINGS, OUTPUTS, RESIZE, VERDICT
from flawmap.deploy.resize import IMAGE

if TYPE_CHECKING:
    import onnx

PRODUCTS = ["MatMul", "Gemm"]  # the operations of the code searches and of distances from good parts
ENCODED = CHOICES[:2]  # what comes of encoding the image
JUDGED = (*(name for name in OUTPUTS if name not in DRAWINGS), VERDICT)  # what comes of judging the drawings


def quantize_onnx(
    whole: onnx.ModelProto, images: Sequence[Pixels], encoder: bool = False, detection: bool = True
) -> onnx.ModelProto:
    """An inspection graph in INT8 where that helps; `encoder`, `detection`: these too."""
    made_by = {name: node.name for node in whole.graph.node for name in node.output}
    makers = {node.name: [made_by[name] for name in node.input if name in made_by] for node in whole.graph.node}
    graph = _Graph(makers, {node.name: node.op_type for node in whole.graph.node}, made_by)
    package("onnxruntime").set_default_logger_severity(3)  # NNCF's sessions warn of what they tidy up
    # ONNX Runtime has no transposed convolution in INT8, and would only convert there and back
    types = {*graph.types.values()} & {*PRODUCTS, "ConvTranspose"}
    quantized: onnx.ModelProto = _quantize(whole, images, _kept(graph, encoder, detection), sorted(types))
    return quantized


def quantize_openvino(model: Any, images: Sequence[Pixels], encoder: bool = False, detection: bool = True) -> Any:
    """An OpenVINO model in INT8 where that helps; `encoder`, `detection`: these too."""
    made = {output.get_any_name(): output.get_node().get_friendly_name() for output in model.outputs}
    operations = [op for op in model.get_ordered_ops() if op.get_type_name() not in ("Constant", "Parameter")]
    types = {op.get_friendly_name(): op.get_type_name() for op in operations}
    makers = {
        op.get_friendly_name(): [
            name for value in op.inputs() if (name := value.get_source_output().get_node().get_friendly_name()) in types
        ]
        for op in operations
    }
    graph = _Graph(makers, types, made)
    kept = [name for name in _kept(graph, encoder, detection) if types[name] != "Result"]
    return _quantize(model, images, kept, sorted({*types.values()} & {*PRODUCTS}))


class _Graph(NamedTuple):
    """makers: the operations that each one's inputs come from; types: of each; made: the one that makes an output."""

    makers: Mapping[str, Sequence[str]]
    types: Mapping[str, str]
    made: Mapping[str, str]

    def before(self, outputs: Iterable[str]) -> set[str]:
        """What makes outputs, and all that this follows from."""
        return self.before_operations(self.made[name] for name in outputs if name in self.made)

    def before_operations(self, operations: Iterable[str]) -> set[str]:
        """Operations, and all that they follow from."""
        waiting, found = list(operations), set()
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.makers[name]
        return found


def _kept(graph: _Graph, encoder: bool, detection: bool) -> list[str]:
    """The names of what stays in full precision."""
    encoding = graph.before(ENCODED)
    kept = {name for name in encoding if name.startswith(RESIZE)} if encoder else encoding
    judging = graph.before(JUDGED) - graph.before((*DRAWINGS, *CHOICES))
    convolutions = {name for name in judging if "Conv" in graph.types[name]}
    kept |= judging - graph.before_operations(convolutions)
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
