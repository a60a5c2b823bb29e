"""Who inspects: flawmap's bundles and their peers, each in every runtime that is installed, behind one call.

Axes: H, W an image file's rows and columns, h, w the network's.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from efficientad import EfficientAD
from flawmap.bundle import Bundle, save_bundle
from flawmap.config import Recipe, load_recipe
from flawmap.data.dataset import network_input
from flawmap.data.images import read_image, resize_map, to_uint8, write_image
from flawmap.data.surfaces import SURFACES, draw_good
from flawmap.deploy.artefact import GraphRuntime, openvino_options
from flawmap.deploy.inspector import Inspector
from flawmap.deploy.recipe_choice import EVERY_PART_PASSES, untrained
from flawmap.devices import has_fast_bfloat16
from flawmap.errors import DisagreementError
from flawmap.train.sources import sized
from transcription import Transcription

RUNTIMES = ("torch", "onnx", "openvino")
PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
LIMIT = EVERY_PART_PASSES  # as most do on a line

Array = np.ndarray[Any, Any]


class Contender(NamedTuple):
    """network: (1, 3, h, w) float32 -> map and score, nothing else; inspect: an image file -> defective or not."""

    name: str
    runtime: str
    network: Callable[[Array], object]
    inspect: Callable[[Path], bool]
    size: tuple[int, int]
    precision: str = "float32"

    @property
    def label(self) -> str:
        """What the tables call it."""
        return f"{self.name} / {self.runtime}" + ("" if self.precision == "float32" else f" {self.precision}")


def installed(runtime: str) -> bool:
    """Whether a runtime, and what exports to it, is here."""
    needed = [PACKAGES[runtime]] if runtime == "torch" else [PACKAGES[runtime], "onnx", "onnxscript"]
    return all(find_spec(name) is not None for name in needed)


def draw_files(folder: Path, count: int, height: int, width: int, seed: int = 0) -> list[Path]:
    """Good parts drawn as PNG files of height x width pixels."""
    random, names = np.random.default_rng(seed), sorted(SURFACES)
    files = []
    for index in range(count):
        picture = draw_good(names[index % len(names)], max(height, width), random)[:height, :width]
        files.append(folder / f"part{index:03d}.png")
        write_image(files[-1], to_uint8(np.ascontiguousarray(picture)))
    return files


def sized_for(recipe: str, photos: Sequence[Path]) -> Recipe:
    """A recipe at the size that a training on these photos gives it."""
    return sized(load_recipe(recipe), photos)


def random_bundle(recipe: str | Recipe, height: int = 0, width: int = 0, seed: int = 0) -> Bundle:
    """An untrained bundle of a recipe's sizes, with the shipped general model where it fits: right for time."""
    found = load_recipe(recipe) if isinstance(recipe, str) else recipe
    if height:
        image = found.image.model_copy(update={"height": height, "width": width or height})
        found = found.model_copy(update={"image": image})
    return untrained(found, seed)


def of_bundle(
    name: str, bundle: Bundle, folder: Path, runtimes: Sequence[str], threads: int, device: str = "cpu",
    int8: Sequence[Path] = (),
) -> list[Contender]:  # fmt: skip
    """flawmap's own, through flawmap's own exports and Inspector; `int8`: good images to fit INT8 to."""
    found = []
    for runtime in runtimes:
        if runtime == "torch":
            found.append(_of_inspector(name, runtime, Inspector(bundle, device, threads)))
            if has_fast_bfloat16(torch.device(device)):
                lower = Inspector(bundle, device, threads, precision="bfloat16")
                found.append(_of_inspector(name, runtime, lower, "bfloat16"))
            continue
        try:
            file = exported(bundle, folder / name, runtime)
        except DisagreementError as problem:
            print(f"{name} / {runtime}: not handed over by flawmap export, timed all the same: {problem.fault}")
            file = _unchecked(bundle, folder / f"{name}-unchecked", runtime)
        found.append(_of_inspector(name, runtime, Inspector(bundle, runtime=GraphRuntime(file, threads))))
        lower: dict[str, Sequence[Path]] = (
            {"bfloat16": ()} if runtime == "openvino" and has_fast_bfloat16(torch.device("cpu")) else {}
        )
        if int8 and find_spec("nncf") is not None:
            lower |= {"int8": int8} | {f"int8-{precision}": int8 for precision in lower}
        for precision, images in lower.items():
            file = _unchecked(bundle, folder / f"{name}-{precision}", runtime, images, precision)
            inspector = Inspector(bundle, runtime=GraphRuntime(file, threads))
            found.append(_of_inspector(name, runtime, inspector, precision))
    return found


def _of_inspector(name: str, runtime: str, inspector: Inspector, precision: str = "float32") -> Contender:
    settings = inspector.bundle.recipe.image

    def inspect(path: Path) -> bool:
        return bool(inspector.inspect(path).defective)

    return Contender(name, runtime, inspector.runtime, inspect, (settings.height, settings.width), precision)


def exported(bundle: Bundle, stem: Path, runtime: str) -> Path:
    """The bundle as `flawmap export` hands it over, after its check against PyTorch."""
    from flawmap.deploy.export import export

    source = stem.with_name(stem.name + ".bundle")
    save_bundle(bundle, source, overwrite=True, dtype="float32")
    out = stem.with_name(stem.name + (".onnx" if runtime == "onnx" else ".openvino"))
    return export(source, runtime, out, overwrite=True).file


def _unchecked(
    bundle: Bundle, stem: Path, runtime: str, images: Sequence[Path] = (), precision: str = "float32"
) -> Path:
    """The same without the check against PyTorch, in INT8 when there are images to fit it to."""
    from flawmap.deploy.export import unchecked

    with _quiet():
        return unchecked(bundle, runtime, stem, [to_uint8(read_image(path)) for path in images], precision)


def of_peer(
    name: str, model: nn.Module, folder: Path, runtimes: Sequence[str], threads: int, device: str = "cpu",
    height: int = 256, width: int = 256,
) -> list[Contender]:  # fmt: skip
    """A peer, as its own authors would run it: decode, resize, network, map at the image's size, threshold.

    Where the processor has bfloat16 it gets that too, by PyTorch's autocast and by OpenVINO's own choice.
    """
    model = model.eval().requires_grad_(False)
    settings = load_recipe("paper").image.model_copy(update={"height": height, "width": width})

    def contender(
        runtime: str, network: Callable[[Array], tuple[Array, Array]], precision: str = "float32"
    ) -> Contender:
        def inspect(path: Path) -> bool:
            image = read_image(path)
            maps, scores = network(network_input(image, settings).numpy()[None])
            resize_map(maps[0], *image.shape[:2])
            return bool(scores[0] > LIMIT.score)

        return Contender(name, runtime, network, inspect, (height, width), precision)

    found = []
    lower = has_fast_bfloat16(torch.device(device))
    for runtime in runtimes:
        if runtime == "torch":
            found.append(contender(runtime, _torch(model, threads, device)))
            if lower:
                found.append(contender(runtime, _torch(model, threads, device, bfloat16=True), "bfloat16"))
            continue
        file = folder / f"{name}.onnx"
        if not file.exists():
            _to_onnx(model, file, height, width)
        found.append(contender(runtime, (_onnx if runtime == "onnx" else _openvino)(file, threads)))
        if runtime == "openvino" and lower:
            found.append(contender(runtime, _openvino(file, threads, bfloat16=True), "bfloat16"))
    return found


def peers(folder: Path, runtimes: Sequence[str], threads: int, device: str = "cpu") -> list[Contender]:
    """The transcription, with the weights of `random_bundle("paper")`, and EfficientAD-S."""
    transcription = Transcription()
    transcription.load_state_dict(random_bundle("paper").model.state_dict())
    found = of_peer("transcription", transcription, folder, runtimes, threads, device)
    return found + of_peer("efficientad", EfficientAD(), folder, runtimes, threads, device)


def _torch(
    model: nn.Module, threads: int, device: str, bfloat16: bool = False
) -> Callable[[Array], tuple[Array, Array]]:
    torch.set_num_threads(threads)
    model = model.to(device)

    @torch.no_grad()
    def network(pixels: Array) -> tuple[Array, Array]:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            result = model(torch.from_numpy(pixels).to(device))
        return result.map.float().cpu().numpy(), result.score.float().cpu().numpy()

    return network


class _Outputs(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = self.model(pixels)
        return result.map, result.score


def _to_onnx(model: nn.Module, file: Path, height: int, width: int) -> None:
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Outputs(model), (torch.full((1, 3, height, width), 0.5),), dynamo=True, verbose=False, opset_version=18,
            input_names=["pixels"], output_names=["map", "score"],
        )  # fmt: skip
        program.save(file)


def _onnx(file: Path, threads: int) -> Callable[[Array], tuple[Array, Array]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda pixels: tuple(session.run(None, {"pixels": pixels}))


def _openvino(file: Path, threads: int, bfloat16: bool = False) -> Callable[[Array], tuple[Array, Array]]:
    import openvino

    options = openvino_options(threads) | ({"INFERENCE_PRECISION_HINT": "bf16"} if bfloat16 else {})
    compiled = openvino.Core().compile_model(str(file), "CPU", options)

    def network(pixels: Array) -> tuple[Array, Array]:
        found = compiled(pixels)
        return np.array(found[0]), np.array(found[1])

    return network


@contextlib.contextmanager
def _quiet() -> Any:
    """Exporters and NNCF print much that plays no part here."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Where drawn images and exports lie while a script runs."""
    return tempfile.TemporaryDirectory(prefix="flawmap-bench-")
