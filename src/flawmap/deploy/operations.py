"""The operations of an exported inspection, and what each follows from: which of them a lower precision is kept from.

Drawings and codes follow from the image, map and score from all of these. Neither eight bits nor bfloat16 hold the
small differences of large sums that the nearest code is told by, nor those of a feature from good parts'.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from flawmap.deploy.graph import CHOICES, DRAWINGS, OUTPUTS, VERDICT

CONVOLUTIONS = (  # ONNX's names, then OpenVINO's
    "Conv",
    "ConvTranspose",
    "Convolution",
    "ConvolutionBackpropData",
    "GroupConvolution",
    "GroupConvolutionBackpropData",
)
JUDGED = (*(name for name in OUTPUTS if name not in DRAWINGS), VERDICT)  # what comes of judging the drawings


class Operations(NamedTuple):
    """makers: the operations that each one's inputs come from; types: of each; made: the one that makes an output.

    Operations come behind their makers.
    """

    makers: Mapping[str, Sequence[str]]
    types: Mapping[str, str]
    made: Mapping[str, str]

    def before(self, outputs: Iterable[str]) -> set[str]:
        """What makes outputs, and all that this follows from."""
        return self.before_operations(self.made[name] for name in outputs if name in self.made)

    def before_operations(self, operations: Iterable[str], short_of: Collection[str] = ()) -> set[str]:
        """Operations, and all that they follow from, each way back as far as one of `short_of`, which is left out."""
        waiting, found = list(operations), set()
        while waiting:
            name = waiting.pop()
            if name not in found and name not in short_of:
                found.add(name)
                waiting += self.makers[name]
        return found

    def convolutions(self, among: Iterable[str]) -> set[str]:
        """Those that are convolutions, transposed ones too."""
        return {name for name in among if self.types[name] in CONVOLUTIONS}

    def behind_convolutions(self, outputs: Iterable[str]) -> set[str]:
        """What makes outputs, each way back as far as a convolution, which is not among it."""
        makers = [self.made[name] for name in outputs if name in self.made]
        return self.before_operations(makers, self.convolutions(self.types))

    def without_convolutions(self) -> set[str]:
        """What follows from no convolution: resizing and levelling the image, and the like."""
        after = self.convolutions(self.types)
        for name in self.types:
            if not after.isdisjoint(self.makers[name]):
                after.add(name)
        return {*self.types} - after

    def judging(self) -> set[str]:
        """What judges the drawings, detection and all behind it."""
        return self.before(JUDGED) - self.before((*DRAWINGS, *CHOICES))


def operations_of(model: Any) -> Operations:
    """Those of an OpenVINO model, by their friendly names."""
    made = {output.get_any_name(): output.get_node().get_friendly_name() for output in model.outputs}
    operations = [op for op in model.get_ordered_ops() if op.get_type_name() not in ("Constant", "Parameter")]
    types = {op.get_friendly_name(): op.get_type_name() for op in operations}
    makers = {
        op.get_friendly_name(): [
            name for value in op.inputs() if (name := value.get_source_output().get_node().get_friendly_name()) in types
        ]
        for op in operations
    }
    return Operations(makers, types, made)
