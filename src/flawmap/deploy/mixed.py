"""bfloat16 in OpenVINO for the networks alone: what in its files stays in float32, whatever it computes the rest in.

On a CPU that multiplies bfloat16 OpenVINO would by itself compute all in it. A search for codes then finds others in a
quarter of the cells and more, levelling loses digits of every pixel, and so do the distances from good parts. An
operation that is marked DisablePrecisionConversion (a runtime attribute in OpenVINO's files) is left as it is. The mark
is lost where operations are joined: a product with what is added to it becomes one, hence nothing is added (graph.py,
`_opposite`). It is lost on the resize's product too, which brings lines of a photo of another size to the network's:
weights and sums there have eight bits, as the pixels have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from flawmap.deploy.graph import CHOICES
from flawmap.deploy.operations import JUDGED, operations_of

MARK = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}  # stands for bfloat16 too
UNMARKED = ("Parameter", "Const", "Result")


def in_float32(model: Any) -> set[str]:
    """The operations of an OpenVINO model that stay in float32: all but convolutions and what joins them."""
    operations = operations_of(model)
    searching, judging = operations.behind_convolutions(CHOICES), operations.behind_convolutions(JUDGED)
    return searching | judging | operations.without_convolutions()


def mark(file: Path, names: set[str]) -> None:
    """Mark these operations of an OpenVINO .xml, in place."""
    tree = ElementTree.parse(file)
    for layer in tree.getroot().iterfind("layers/layer"):
        if layer.get("name") not in names or layer.get("type") in UNMARKED:
            continue
        info = layer.find("rt_info")
        if info is None:
            info = ElementTree.Element("rt_info")
            layer.insert(0 if layer.find("data") is None else 1, info)
        ElementTree.SubElement(info, "attribute", MARK)
    tree.write(file, encoding="utf-8", xml_declaration=True)
