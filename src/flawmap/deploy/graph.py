"""An inspection as one ONNX graph: the image as it comes in, map, score, verdict and both drawings out.

deploy/resize.py writes the first part, PyTorch's exporter the network. What a search chose is an output too, so that an
artefact can be compared with PyTorch fairly (deploy/agreement.py).

Axes: B images, H, W an image's rows and columns, h, w the network's, K codes.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flawmap.bundle import Bundle
from flawmap.data.scope import Scope
from flawmap.deploy.resize import PIXELS, resize_graph
from flawmap.model.codebook import CELLS_PER_BLOCK, Codebook, cells_of
from flawmap.model.dsr import DSR
from flawmap.model.familiarity import Density

if TYPE_CHECKING:
    import onnx

OPSET = 18
OUTPUTS = ("map", "score", "object_image", "general_image", "detection_map")  # as in measure.found.Found
DRAWINGS = ("object_image", "general_image")
CHOICES = ("coarse_codes", "fine_codes", "coarse_restricted_codes", "fine_restricted_codes")
VERDICT = "verdict"
RESIZE = "resize/"  # begins the name of every node between IMAGE and PIXELS
ABOUT = "flawmap"  # under this name an artefact says what it is, as JSON


class _Network(nn.Module):
    """DSR with its results in a row: OUTPUTS, then the code each search chose (CHOICES).

    Drawings are clipped and turned to (B, h, w, 3), as the image comes in.
    """

    def __init__(self, model: DSR, per_image: bool, exact: bool, sub_pixel: bool) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to("cpu", torch.float32).eval()
        for part in list(self.model.modules()):
            for name, child in part.named_children():
                if exact and isinstance(child, nn.InstanceNorm2d):
                    setattr(part, name, InstanceNorm(child))
                if sub_pixel and isinstance(child, nn.ConvTranspose2d) and child.out_channels == 3:
                    setattr(part, name, SubPixel(child))
        # Constants of the graph: what it computed from the codes itself, INT8 could not be fitted to.
        for book in _books(self.model):
            book.register_buffer("opposite", _opposite(book.vectors))
        for part in self.model.modules():
            if isinstance(part, Density) and part.memory is not None:
                part.register_buffer("opposite", _opposite(part.memory))
                part.nearest = partial(_nearest_remembered, part)  # type: ignore[method-assign]
        self.per_image = per_image

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, h, w) -> (B, h, w), (B,), twice (B, h, w, 3), (B, h, w), four times (B, rows, columns)."""
        chosen: list[Tensor] = []

        def search(book: Codebook, features: Tensor) -> Tensor:
            found = _nearest_per_image(book, features) if self.per_image else _nearest(book, features)
            chosen.append(found)
            return found

        with searching(self.model, search):
            result = self.model(pixels)
        drawings = [image.clamp(0, 1).permute(0, 2, 3, 1) for image in (result.object_image, result.general_image)]
        return (result.map, result.score, *drawings, result.detection_map, *chosen)


class InstanceNorm(nn.Module):
    """InstanceNorm by means of blocks, then of the blocks' means.

    A running sum over a whole plane loses five bits and more, which OpenVINO's map shows in its fourth decimal; so
    summed it agrees with PyTorch to 1e-5, for a few per cent of the time.
    """

    def __init__(self, like: nn.InstanceNorm2d) -> None:
        super().__init__()
        assert not like.affine and not like.track_running_stats, "flawmap's InstanceNorm has no weights"
        self.epsilon = like.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        centred = x - _mean(x)
        return centred * torch.rsqrt(_mean(centred * centred) + self.epsilon)


class SubPixel(nn.Module):
    """A transposed convolution of 4x4 and stride 2 as a convolution of 3x3 for each of four pixels (Shi et al. 2016).

    What draws an image: OpenVINO computes this in bfloat16, and the transposed convolution only in float32.
    """

    def __init__(self, like: nn.ConvTranspose2d) -> None:
        super().__init__()
        assert (like.kernel_size, like.stride, like.padding) == ((4, 4), (2, 2), (1, 1)) and like.bias is not None
        along = torch.zeros(2, 3, 4)  # an even pixel sees the one before and its own, an odd one its own and the next
        along[0, 0, 3] = along[0, 1, 1] = along[1, 1, 2] = along[1, 2, 0] = 1
        weight = torch.einsum("ioyx,ary,bsx->oabirs", like.weight, along, along)
        channels = 4 * like.out_channels
        self.convolution = nn.Conv2d(like.in_channels, channels, 3, padding=1)
        self.convolution.weight = nn.Parameter(weight.reshape(channels, like.in_channels, 3, 3))
        self.convolution.bias = nn.Parameter(like.bias.repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2H, 2W)."""
        return nn.functional.pixel_shuffle(self.convolution(x), 2)


def _mean(x: Tensor) -> Tensor:
    """Mean of each plane: (B, C, H, W) -> (B, C, 1, 1)."""
    height, width = x.shape[-2:]
    side = next(side for side in (16, 8, 4, 2, 1) if height % side == 0 and width % side == 0)
    return nn.functional.avg_pool2d(x, side).mean((2, 3), keepdim=True)


@contextmanager
def searching(model: DSR, search: Any) -> Iterator[None]:
    """Within, every codebook of `model` finds its codes by `search(codebook, features)` -> indices."""
    books = _books(model)
    try:
        for book in books:
            book.nearest = partial(search, book)  # type: ignore[method-assign]
        yield
    finally:
        for book in books:
            del book.nearest  # the class's own shows again


def _books(model: DSR) -> list[Codebook]:
    return [part for part in model.modules() if isinstance(part, Codebook)]


def _nearest(book: Codebook, features: Tensor) -> Tensor:
    """`Codebook.nearest` by what an exporter can follow."""
    batch, _, height, width = features.shape
    return _in_blocks(book, cells_of(features), 0).reshape(batch, height, width)


def _nearest_per_image(book: Codebook, features: Tensor) -> Tensor:
    """The same in blocks of each image's cells, for a number of images that the graph does not know."""
    height, width = features.shape[-2:]
    cells = features.flatten(2).transpose(1, 2)  # (B, cells, D)
    return _in_blocks(book, cells, 1).reshape(-1, height, width)


def _in_blocks(book: Codebook, cells: Tensor, axis: int) -> Tensor:
    """Nearest codes of cells (…, D), which lie along `axis`."""
    blocks = torch.split(_with_one(cells), CELLS_PER_BLOCK, dim=axis)
    return torch.cat([_first_smallest(block @ book.get_buffer("opposite")) for block in blocks], dim=axis)


def _nearest_remembered(density: Density, white: Tensor) -> Tensor:
    """`Density.nearest` by one product."""
    return (_with_one(white) @ density.get_buffer("opposite")).amin(-1)


def _opposite(vectors: Tensor) -> Tensor:
    """What features with a one behind them are multiplied with for |v|^2 - 2 x.v: (K, D) -> (D + 1, K).

    One product, to which nothing is added: what adds, OpenVINO joins with it, and joined it would not stay in float32
    where the rest is in bfloat16 (mixed.py). ONNX Runtime takes less time for it too.
    """
    return torch.cat([-2 * vectors.t(), vectors.square().sum(1)[None]]).contiguous()


def _with_one(features: Tensor) -> Tensor:
    """(..., D) -> (..., D + 1)."""
    return nn.functional.pad(features, (0, 1), value=1.0)


def _first_smallest(distances: Tensor) -> Tensor:
    """`distances.argmin(-1)` of (…, K), the first of equals, in two steps: which run of codes, and which code of it.

    OpenVINO sorts for the place of the smallest, which took a fifth of the whole inspection, and vectorises the
    smallest itself (docs/speed.md).
    """
    codes = distances.shape[-1]
    length = 1 << (codes.bit_length() - 1) // 2
    if codes % length:
        return distances.argmin(-1)
    runs = distances.reshape(*distances.shape[:-1], codes // length, length)
    run = runs.amin(-1).argmin(-1)  # (…)
    first = torch.arange(run.numel(), device=run.device) * (codes // length)  # run of each cell
    chosen = runs.flatten(0, -2).index_select(0, first + run.flatten())
    place: Tensor = run * length + chosen.argmin(-1).reshape(run.shape)
    return place


def network_graph(
    model: DSR, height: int, width: int, dynamic_batch: bool = False, exact: bool = True, sub_pixel: bool = False
) -> onnx.ModelProto:
    """The network as ONNX: PIXELS (B, 3, height, width) float32 -> OUTPUTS and CHOICES. B is 1 unless dynamic.

    `exact`: instance normalisation agrees with PyTorch to 1e-5. Without it, a runtime's own is used, which is faster.
    `sub_pixel`: drawings by SubPixel, which suits OpenVINO.
    """
    pixels = torch.full((2 if dynamic_batch else 1, 3, height, width), 0.5)
    shapes = {PIXELS: {0: torch.export.Dim("batch")}} if dynamic_batch else None
    with warnings.catch_warnings(), _silent("torch.onnx"), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Network(model, per_image=dynamic_batch, exact=exact, sub_pixel=sub_pixel),
            (pixels,),
            dynamo=True,
            input_names=[PIXELS],
            output_names=[*OUTPUTS, *CHOICES],
            opset_version=OPSET,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None, "PyTorch's exporter gives a program"
    graph: onnx.ModelProto = program.model_proto
    for node in graph.graph.node:
        del node.metadata_props[:]  # stack traces, with paths of this machine
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    return graph


def inspection_graph(network: onnx.ModelProto, bundle: Bundle) -> onnx.ModelProto:
    """`network` with the resize before it, and the verdict behind it when the bundle has a threshold.

    The image (B, H, W, 3) uint8 BGR -> OUTPUTS, VERDICT (B,) bool, CHOICES. A graph judges all of an image: where only
    part of it counts (data/scope.py) there is no verdict.
    """
    import onnx
    from onnx import TensorProto, helper

    settings = bundle.recipe.image
    whole = onnx.ModelProto()
    whole.CopyFrom(network)
    batch = network.graph.input[0].type.tensor_type.shape.dim[0]
    fixed = not batch.dim_param
    resize = resize_graph(settings.height, settings.width, settings.shrink == "area", fixed, OPSET).graph
    for number, node in enumerate(resize.node):
        node.name = f"{RESIZE}{number}-{node.op_type}"
    graph = whole.graph
    pixels = graph.input.pop()
    graph.input.append(resize.input[0])
    graph.value_info.append(pixels)
    nodes = [*resize.node, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    if bundle.threshold is not None and Scope(settings, bundle.ignore).whole:
        graph.initializer.append(helper.make_tensor("threshold", TensorProto.FLOAT, [], [bundle.threshold.score]))
        graph.node.append(helper.make_node("Greater", ["score", "threshold"], [VERDICT], name=VERDICT))
        dims = [dim.dim_param or dim.dim_value for dim in graph.output[1].type.tensor_type.shape.dim]
        graph.output.insert(len(OUTPUTS), helper.make_tensor_value_info(VERDICT, TensorProto.BOOL, dims))
    graph.name = "flawmap"
    onnx.checker.check_model(whole, full_check=True)
    return whole


def network_of(whole: onnx.ModelProto) -> onnx.ModelProto:
    """An inspection graph without its resize: PIXELS (B, 3, h, w) float32 -> its outputs."""
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(whole)
    kept = [node for node in cut.graph.node if not node.name.startswith(RESIZE)]
    (pixels,) = (value for value in cut.graph.value_info if value.name == PIXELS)
    del cut.graph.node[:], cut.graph.input[:]
    cut.graph.node.extend(kept)
    cut.graph.input.append(pixels)
    return cut


def write_about(whole: onnx.ModelProto, about: Mapping[str, Any]) -> None:
    """Put what an artefact is into the graph, under ABOUT."""
    from onnx import helper

    helper.set_model_props(whole, {ABOUT: json.dumps(about, ensure_ascii=False, allow_nan=False)})


@contextmanager
def _silent(logger: str) -> Iterator[None]:
    """PyTorch's exporter warns of packages that play no part here."""
    named = logging.getLogger(logger)
    level = named.level
    named.setLevel(logging.ERROR)
    try:
        yield
    finally:
        named.setLevel(level)
