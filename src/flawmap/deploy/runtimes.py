"""What computes the network: PyTorch here, exported graphs in artefact.py. All take pixels and give maps, alike.

Axes: B images, h, w the network's rows and columns.
"""

from __future__ import annotations

from typing import Protocol

import torch

from flawmap.errors import ConfigError
from flawmap.measure.found import Array, Found, look
from flawmap.model.dsr import DSR

RUNTIMES = ("torch", "onnx", "openvino")
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
    """PyTorch, in float32, on any device: `auto` (a GPU if there is one), `cpu`, `cuda`, ….

    `threads`: CPU threads, 0 leaves PyTorch's choice. Raises ConfigError for a device that is not there.
    """

    name = "torch"

    def __init__(self, model: DSR, device: str = "auto", threads: int = 0) -> None:
        self.device = pick_device(device)
        if threads > 0:
            torch.set_num_threads(threads)
        self.model = model.eval().requires_grad_(False)
        self.model.to(self.device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def usual_batch(self) -> int:
        """1 on a CPU, where more only take memory, 8 on a GPU."""
        return 1 if self.device.type == "cpu" else 8

    def __call__(self, images: Array) -> Found:
        """(B, 3, h, w) -> Found."""
        return look(self.model, torch.from_numpy(images), self.device)


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one. Raises ConfigError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(f"no device {name} here; use auto or cpu") from problem
    return device
