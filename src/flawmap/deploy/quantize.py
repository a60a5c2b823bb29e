"""INT8 by NNCF's post-training quantization, fitted to good images. The code search stays in full precision.

What is left out: the resize, the nearest-code searches (the only matrix products), unless `encoder` the networks that
the codes of the image follow from, and unless `detection` what judges the drawings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flawmap.deploy.agreement import Pixels
from flawmap.deploy.artefact import package
from flawmap.deploy.graph import CHOICES, DRAWINGS, OUTPUTS, RESIZE, VERDICT
from flawmap.deploy.resize import IMAGE

if TYPE_CHECKING:
    import onnx

SEARCH = ["MatMul", "Gemm"]  # the operations of the code searches
ENCODED = CHOICES[:2]  # what comes of encoding the image
JUDGED = (*(name for name in OUTPUTS if name not in DRAWINGS), VERDICT)  # what comes of judging the drawings


def quantize_onnx(
    whole: onnx.ModelProto, images: Sequence[Pixels], encoder: bool = False, detection: bool = True
) -> onnx.ModelProto:
    """An inspection graph in INT8 where that helps; `encoder`, `detection`: these too."""
    makers = {name: node for node in whole.graph.node for name in node.output}

    def before(outputs: Iterable[str]) -> set[str]:
        return _ancestors(
            [makers[name] for name in outputs if name in makers],
            lambda node: node.name,
            lambda node: [makers[name] for name in node.input if name in makers],
        )

    # ONNX Runtime has no transposed convolution in INT8, and would only convert there and back
    types = {node.op_type for node in whole.graph.node} & {*SEARCH, "ConvTranspose"}
    quantized: onnx.ModelProto = _quantize(whole, images, _kept(before, encoder, detection), sorted(types))
    return quantized


def quantize_openvino(model: Any, images: Sequence[Pixels], encoder: bool = False, detection: bool = True) -> Any:
    """An OpenVINO model in INT8 where that helps; `encoder`, `detection`: these too."""
    makers = {output.get_any_name(): output.get_node() for output in model.outputs}
    named = {op.get_friendly_name(): op.get_type_name() for op in model.get_ops()}

    def before(outputs: Iterable[str]) -> set[str]:
        found = _ancestors(
            [makers[name] for name in outputs if name in makers],
            lambda op: op.get_friendly_name(),
            lambda op: [value.get_source_output().get_node() for value in op.inputs()],
        )
        return {name for name in found if named[name] not in ("Constant", "Parameter", "Result")}

    return _quantize(model, images, _kept(before, encoder, detection), sorted(set(named.values()) & set(SEARCH)))


def _kept(before: Callable[[Iterable[str]], set[str]], encoder: bool, detection: bool) -> list[str]:
    """The names of what stays in full precision; `before`: all that an output follows from."""
    encoding = before(ENCODED)
    kept = {name for name in encoding if name.startswith(RESIZE)} if encoder else encoding
    if not detection:
        kept |= before(JUDGED) - before((*DRAWINGS, *CHOICES))
    return sorted(kept)


def _ancestors(nodes: Sequence[Any], name_of: Callable[[Any], str], makers_of: Callable[[Any], list[Any]]) -> set[str]:
    """The names of nodes and of all that they follow from."""
    waiting, found = list(nodes), set()
    while waiting:
        node = waiting.pop()
        if name_of(node) not in found:
            found.add(name_of(node))
            waiting += makers_of(node)
    return found


def _quantize(model: Any, images: Sequence[Pixels], names: list[str], types: list[str]) -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # no usage statistics leave the machine
    nncf = package("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset(list(images), lambda image: {IMAGE: image[None]})
    left_out = nncf.IgnoredScope(names=names, types=types, validate=False)
    return nncf.quantize(
        model, data, subset_size=len(images), ignored_scope=left_out, preset=nncf.QuantizationPreset.MIXED
    )
