"""Which device computes, and what its processor multiplies well."""

from __future__ import annotations

import torch

from flawmap.errors import ConfigError


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


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (emulated, it is slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
