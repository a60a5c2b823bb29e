"""What computes the network: PyTorch here, exported graphs in artefact.py. All take pixels and give maps, alike.

Axes: B images, h, w the network's rows and columns.
"""

from __future__ import annotations

from typing import Protocol

import torch

from flawmap.devices import SPAWN, check_threads, has_fast_bfloat16, pick_device
from flawmap.errors import ConfigError
from flawmap.measure.found import Array, Found, look
from flawmap.model.dsr import DSR

RUNTIMES = ("torch", "onnx", "openvino")
RUNTIMES_IN = {"float32": RUNTIMES, "bfloat16": ("torch", "openvino")}  # ONNX Runtime has no bfloat16 on a CPU
PRECISIONS = tuple(RUNTIMES_IN)
AUTO = "auto"  # the fastest of them, by deploy/fastest.py


class Runtime(Protocol):
    """Computes the network of one bundle."""

    @property
    def name(self) -> str:
        """One of RUNTIMES."""

    @property
    def usual_batch(self) -> int:
        """Images at a time that suit it."""

    def __call__(self, images: Array) -> Found:
        """Images (B, 3, h, w) float32 in [0, 1], BGR, of the network's size."""


class TorchRuntime:
    """PyTorch on any device: `auto` (a GPU if there is one), `cpu`, `cuda`, ….

    `threads`: CPU threads, 0 leaves PyTorch's choice. `precision`: `float32`, or `bfloat16` as in training, where the
    search for codes stays in float32. Raises ConfigError for a device that is not there or that has no bfloat16.
    """

    name = "torch"

    def __init__(self, model: DSR, device: str = "auto", threads: int = 0, precision: str = "float32") -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"no precision {precision}; there are: {', '.join(PRECISIONS)}")
        self.device, self.precision = pick_device(device), precision
        if precision == "bfloat16" and not has_fast_bfloat16(self.device):
            raise ConfigError("the processor here does not multiply bfloat16, which would be slow; use float32")
        check_threads(threads)
        if threads > 0:
            torch.set_num_threads(threads)
        self.model = model.eval().requires_grad_(False)
        self.model.to(self.device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def usual_batch(self) -> int:
        """1 on a CPU, where more only take memory, 8 on a GPU."""
        return 1 if self.device.type == "cpu" else 8

    def __call__(self, images: Array) -> Found:
        """(B, 3, h, w) -> Found. After a fork on one CPU thread; ConfigError on a GPU."""
        if self.device.type == "cuda" and torch.cuda._is_in_bad_fork():
            raise ConfigError(f"{self.device} was in use before this process was forked; {SPAWN}")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return look(self.model, torch.from_numpy(images), self.device)
