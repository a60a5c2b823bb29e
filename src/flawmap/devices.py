"""Which device computes, what its processor multiplies well, and what of it survives a fork.

A fork copies a process without its threads: OpenMP's and TBB's wait for ever for those that are gone, and CUDA refuses.
So PyTorch computes on one thread in a forked process, and what cannot compute there says so.
"""

from __future__ import annotations

import os

import torch

from flawmap.errors import ConfigError

SPAWN = "start the process with multiprocessing.get_context('spawn'), and load the bundle in it"


class _Fork:
    """Whether this process was forked from one that had loaded this module."""

    happened = False


def _forked() -> None:
    _Fork.happened = True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def check_threads(threads: int) -> None:
    """Raises ConfigError for more than one CPU thread in a forked process, where they would wait for ever."""
    if _Fork.happened and threads > 1:
        raise ConfigError(f"a forked process computes on 1 thread, not on {threads}; leave out threads, or {SPAWN}")


def check_not_forked(what: str) -> None:
    """Raises ConfigError in a forked process, for what cannot compute there."""
    if _Fork.happened:
        raise ConfigError(f"{what} does not compute in a forked process; use the runtime torch, or {SPAWN}")


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one. Raises ConfigError when it is not there."""
    if name == "auto":
        usable = torch.cuda.is_available() and not torch.cuda._is_in_bad_fork()
        return torch.device("cuda" if usable else "cpu")
    if name.startswith("cuda") and torch.cuda._is_in_bad_fork():
        raise ConfigError(f"{name} was in use before this process was forked; {SPAWN}")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(f"no device {name} here; use auto or cpu") from problem
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (emulated, it is slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
