"""Read `model.backbone`: check an ONNX file of an image network and turn it into a PyTorch module.

The file has one input, images (N, 3, H, W) of float, and one or more outputs, feature maps (N, C, h, w), where H / h
and W / w are the same whole number. The maps that PyTorch computes are compared with those of ONNX Runtime, so that no
operator is misread in silence.

Axes: N images, C channels, H, W rows and columns of an image, h, w of feature maps.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from flawmap.backbones.pixels import pixels_of
from flawmap.backbones.probe import compare, describe, of_any_batch
from flawmap.backbones.translate import translate
from flawmap.config import ModelSettings
from flawmap.errors import ConfigError, first_line
from flawmap.model.onnx_backbone import OnnxBackbone

if TYPE_CHECKING:
    import onnx


def read_backbone(settings: ModelSettings, *sizes: tuple[int, int]) -> OnnxBackbone:
    """Read the backbone that `settings` name, and check it on images of each of `sizes`, (H, W) in pixels.

    Returns it frozen, on the CPU. Strides are measured at the first size, and must be the same at the others. Raises
    ConfigError, one line, for a file that is missing, no ONNX, or not as this module's head says, for one that changed
    since `settings.backbone_sha256` was noted, and when onnx or onnxruntime is not installed.
    """
    name = settings.backbone
    file = Path(name)
    if not file.is_file():
        raise ConfigError(f"model.backbone: there is no file {name}; give an ONNX file of a network's feature maps")
    onnx, runtime = _package("onnx"), _package("onnxruntime")
    model, sha256 = _load(onnx, file)
    if settings.backbone_sha256 not in ("", sha256):
        raise ConfigError(
            f"{name} changed: its SHA-256 is {sha256[:12]}…, and model.backbone_sha256 is "
            f'{settings.backbone_sha256[:12]}…; give the file it was, or set model.backbone_sha256="" to train on this'
        )
    for height, width in sizes:
        size, batch = _input(model, name, height, width)
    pixels = pixels_of(settings, {entry.key: entry.value for entry in model.metadata_props}, name)
    program, weights = translate(model, name)
    program = program._replace(**pixels._asdict(), size=size, sha256=sha256)
    if batch == 1:
        program = of_any_batch(program, weights, *sizes[0])
    outputs = [output.name for output in model.graph.output]
    found: list[OnnxBackbone] = []
    for height, width in sizes:
        images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        found.append(describe(program, weights, outputs, images, name, batch))
        compare(found[-1], images[:1], runtime, file, batch)
        if found[-1].strides != found[0].strides:
            shares = [" and ".join(f"1/{stride}" for stride in each.strides) for each in (found[0], found[-1])]
            raise ConfigError(
                f"{name} has maps at {shares[0]} of an image of {sizes[0][0]}x{sizes[0][1]} pixels and at {shares[1]} "
                f"of one of {height}x{width}; they must be the same share of an image of any size"
            )
    return found[0]


def noted(settings: ModelSettings, backbone: OnnxBackbone) -> ModelSettings:
    """Note in the settings all that was read from the file: a training by them is the same again, or refused."""
    program = backbone.program
    return settings.model_copy(
        update={
            "backbone_sha256": program.sha256,
            "backbone_mean": program.mean,
            "backbone_deviation": program.deviation,
            "backbone_order": program.order,
        }
    )


def summary(name: str, backbone: OnnxBackbone) -> str:
    """One line for the terminal: maps and pixel normalisation."""
    program = backbone.program
    maps = [f"{count} channels at 1/{side}" for count, side in zip(program.channels, program.strides, strict=True)]
    mean, deviation = (", ".join(f"{value:.4g}" for value in values) for values in (program.mean, program.deviation))
    return f"{name}: {', '.join(maps)}; pixels as {program.order.upper()}, mean {mean}, deviation {deviation}"


def described(name: str, backbone: OnnxBackbone) -> dict[str, Any]:
    """Entry of a bundle's provenance."""
    program = backbone.program
    return {
        "file": Path(name).name,
        "sha256": program.sha256,
        "channels": list(program.channels),
        "strides": list(program.strides),
        "size": None if program.size is None else list(program.size),
    }


def check_unchanged(settings: ModelSettings, bundle: str | Path) -> None:
    """Check that the file a bundle's backbone was read from is the same, if it is still there. Raises ConfigError.

    A bundle does not need the file, so it may be gone.
    """
    file = Path(settings.backbone)
    if not (settings.backbone and settings.backbone_sha256 and file.is_file()):
        return
    found = sha256_of(file)
    with contextlib.suppress(ConfigError):  # then it is another file, or onnx is not installed
        found = _load(_package("onnx"), file)[1]
    if found != settings.backbone_sha256:
        raise ConfigError(
            f"{file} changed since {bundle} was trained with it; put back the file it was, or move this one away, as "
            "the bundle needs none"
        )


def _package(name: str) -> ModuleType:
    """Import a package of the extra `export`; as in deploy/artefact.py, which lies above. Raises ConfigError."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, by ONNX Runtime; else it reports to its makers
    try:
        return import_module(name)
    except ImportError as problem:
        raise ConfigError(f"model.backbone needs {name}, which is not here; pip install 'flawmap[export]'") from problem


def _load(onnx: ModuleType, file: Path) -> tuple[onnx.ModelProto, str]:
    """Load and check the whole graph; return it with the file's SHA-256. Raises ConfigError."""
    try:
        beside = _beside(onnx.load(file, load_external_data=False))
        missing = [name for name in beside if not (file.parent / name).is_file()]
        if not missing:
            model = onnx.load(file)
            for output in model.graph.output:  # the checker wants a shape where exporters may know none
                output.type.tensor_type.shape.SetInParent()
            onnx.checker.check_model(model)
            return model, sha256_of(file, beside)
    except Exception as problem:  # protobuf and the checker have kinds of their own
        raise ConfigError(f"{file} is not a sound ONNX file ({first_line(problem)}); export it anew") from problem
    raise ConfigError(
        f"{file} has its weights in {missing[0]}, which is not beside it; copy both, or export with external_data=False"
    )


def _beside(model: onnx.ModelProto) -> list[str]:
    """Names of the files that hold weights beside the graph's own."""
    return sorted(
        {entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"}
    )


def sha256_of(file: Path, beside: Sequence[str] = ()) -> str:
    """SHA-256 of an ONNX file followed by the files `beside` it that hold its weights."""
    digest = hashlib.sha256()
    for path in (file, *(file.parent / name for name in beside)):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _input(model: onnx.ModelProto, name: str, height: int, width: int) -> tuple[tuple[int, int] | None, int]:
    """Image size (H, W) and number of images that the graph is fixed to; None and 0 for any. Raises ConfigError."""
    known = {tensor.name for tensor in model.graph.initializer}
    given = [entry for entry in model.graph.input if entry.name not in known]
    if len(given) != 1:
        named = ", ".join(entry.name for entry in given) or "none"
        raise ConfigError(f"{name} has {len(given)} inputs ({named}); a backbone has one, the image (N, 3, H, W)")
    (entry,) = given
    kind = entry.type.tensor_type
    shape = [dim.dim_value for dim in kind.shape.dim]  # 0 for any
    last = len(shape) == 4 and shape[1] == 0 and shape[3] == 3  # channels, as TensorFlow has them
    if kind.elem_type != 1 or len(shape) != 4 or shape[1] not in (0, 3) or last:
        shown = ", ".join(str(dim.dim_value) if dim.dim_value else dim.dim_param or "?" for dim in kind.shape.dim)
        of = _package("onnx").TensorProto.DataType.Name(kind.elem_type).lower()
        raise ConfigError(f"{name} takes {entry.name} ({shown}) of {of}; a backbone takes images (N, 3, H, W) of float")
    if shape[2] not in (0, height) or shape[3] not in (0, width):
        raise ConfigError(
            f"{name} takes images of {shape[2] or height}x{shape[3] or width} pixels, and the network's are "
            f"{height}x{width}; export it for any height and width, or set image.height and image.width (and "
            "image.aspect=fixed)"
        )
    return ((height, width) if shape[2] or shape[3] else None), shape[0]
