"""Exported inspections: an .onnx file, or an OpenVINO .xml with its .bin beside it, opened whole or as a runtime.

The precision is pinned to what the artefact was exported and checked for: on a CPU that multiplies bfloat16, OpenVINO
would compute in it by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from flawmap.deploy.graph import ABOUT, OUTPUTS, network_of
from flawmap.deploy.resize import IMAGE, PIXELS
from flawmap.deploy.signals import kept_signal_stack
from flawmap.devices import check_not_forked, has_fast_bfloat16
from flawmap.errors import BundleError, ConfigError
from flawmap.measure.found import Array, Found

SUFFIXES = {".onnx": "onnx", ".xml": "openvino"}
PACKAGES = {kind: ("onnx", "onnxscript", own) for kind, own in (("onnx", "onnxruntime"), ("openvino", "openvino"))}
BFLOAT16 = "bfloat16"  # is in the precision of an artefact whose networks compute in it
Session = Callable[[np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]


class GraphRuntime:
    """The network of an exported inspection, by ONNX Runtime or OpenVINO on the CPU.

    `threads`: CPU threads, 0 for all that this process may use. `bfloat16`: as of `open_session`. Raises ConfigError
    when the runtime is not installed, BundleError when the file is no artefact of flawmap's.
    """

    usual_batch = 1  # one image fills a CPU

    def __init__(self, file: Path, threads: int = 0, bfloat16: bool | None = None) -> None:
        self.name = kind_of(file)
        check_not_forked(self.name)
        self.about = read_about(file)
        self.one_image = not self.about["dynamic_batch"]
        self.session = open_session(file, threads, whole=False, bfloat16=bfloat16)

    def __call__(self, images: Array) -> Found:
        """(B, 3, h, w) -> Found. Raises ConfigError in a forked process."""
        check_not_forked(self.name)
        groups = [images[i : i + 1] for i in range(len(images))] if self.one_image else [images]
        found = [self.session(np.ascontiguousarray(group)) for group in groups]
        return Found(*(np.concatenate([part[name] for part in found]) for name in OUTPUTS))


def kind_of(file: Path) -> str:
    """`onnx` or `openvino`, by the suffix. Raises BundleError."""
    if file.suffix not in SUFFIXES:
        raise BundleError(f"{file} is no artefact; expected an .onnx or an .xml that flawmap export wrote")
    return SUFFIXES[file.suffix]


def find_artefact(path: Path) -> Path | None:
    """The artefact's own file when `path` is one or OpenVINO's folder, None when it is something else."""
    if path.suffix in SUFFIXES and path.is_file():
        return path
    inside = sorted(path.glob("*.xml")) if path.is_dir() else []
    return inside[0] if len(inside) == 1 else None


def read_about(file: Path) -> dict[str, Any]:
    """What the artefact says of itself. Raises BundleError, ConfigError."""
    try:
        if kind_of(file) == "onnx":
            props = {prop.key: prop.value for prop in package("onnx").load(file).metadata_props}
            text = props[ABOUT]
        else:
            with openvino_core() as core:
                text = core.read_model(file).get_rt_info(ABOUT).astype(str)
        about: dict[str, Any] = json.loads(text)
    except ConfigError:
        raise
    except Exception as problem:  # each package has kinds of its own
        raise BundleError(f"{file} is not readable as an artefact of flawmap's; export it again") from problem
    return about


def open_session(file: Path, threads: int = 0, *, whole: bool = True, bfloat16: bool | None = None) -> Session:
    """The artefact, ready to compute: images (B, H, W, 3) uint8 BGR -> outputs by name.

    Not `whole`: pixels (B, 3, h, w) float32 of the network's size. `bfloat16`: whether its networks compute in that
    where the CPU multiplies it (OpenVINO alone); None: as the artefact says. Raises BundleError, ConfigError.
    """
    kind, threads = kind_of(file), threads or available_cores()
    package("onnxruntime" if kind == "onnx" else "openvino")
    try:
        return _open_onnx(file, threads, whole) if kind == "onnx" else _open_openvino(file, threads, whole, bfloat16)
    except ConfigError:
        raise
    except Exception as problem:  # each package has kinds of its own
        raise BundleError(f"{file} cannot be opened ({str(problem).splitlines()[0]}); export it again") from problem


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def package(name: str) -> ModuleType:
    """A package of the extra `export`. Raises ConfigError when it is not installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, by ONNX Runtime; else it reports to its makers
    try:
        return import_module(name)
    except ImportError as problem:
        raise ConfigError(f"{name} is not installed here; pip install 'flawmap[export]'") from problem


@contextlib.contextmanager
def openvino_core() -> Iterator[Any]:
    """A Core of OpenVINO's, which leaves the process its signal stack (`flawmap.deploy.signals`). Raises ConfigError.

    One Core for all would do that too, but with it exports came out that took other codes, and were refused.
    """
    with kept_signal_stack():
        yield package("openvino").Core()


def _open_onnx(file: Path, threads: int, whole: bool) -> Session:
    onnx, onnxruntime = package("onnx"), package("onnxruntime")
    model = onnx.load(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        (model if whole else network_of(model)).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    given = IMAGE if whole else PIXELS
    return lambda array: dict(zip(names, session.run(None, {given: array}), strict=True))


def _open_openvino(file: Path, threads: int, whole: bool, bfloat16: bool | None) -> Session:
    with openvino_core() as core:
        model = core.read_model(file)
        if bfloat16 is None:
            about = json.loads(model.get_rt_info(ABOUT).astype(str)) if model.has_rt_info(ABOUT) else {}
            bfloat16 = BFLOAT16 in about.get("precision", "")
        if not whole:
            model = _network_of(package("openvino"), model)
        options = openvino_options(threads, bfloat16 and has_fast_bfloat16(torch.device("cpu")))
        compiled = core.compile_model(model, "CPU", options)
    names = [output.get_any_name() for output in compiled.outputs]
    # copies: the arrays are views of memory that the next call writes over
    return lambda array: {name: np.array(found) for name, found in zip(names, compiled(array).values(), strict=True)}


def openvino_options(threads: int, bfloat16: bool = False) -> dict[str, Any]:
    """One image at a time, in full precision or what is not marked to stay in it (mixed.py) in bfloat16."""
    precision = "bf16" if bfloat16 else "f32"
    return {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}


def _network_of(openvino: ModuleType, model: Any) -> Any:
    """The model without its resize, fed with PIXELS."""
    (pixels,) = (output for op in model.get_ops() for output in op.outputs() if PIXELS in output.get_names())
    given = openvino.opset13.parameter(pixels.get_partial_shape(), np.float32, PIXELS)
    for reader in pixels.get_target_inputs():
        reader.replace_source_output(given.output(0))
    return openvino.Model(model.get_results(), [given], "network")
