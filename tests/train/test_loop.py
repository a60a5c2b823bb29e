"""Optimizer state through a file: a training that goes on takes the very steps it would have taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from flawmap.config import RunSettings
from flawmap.train import loop

CPU = torch.device("cpu")


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def optimizer_of(model: nn.Sequential, fused: bool) -> torch.optim.Adam:
    optimizer = loop.adam([{"params": model[:2].parameters()}, {"params": model[2:].parameters()}], 1e-2, CPU)
    for group in optimizer.param_groups:
        group["fused"] = fused  # as on a GPU
    return optimizer


def step(model: nn.Sequential, optimizer: torch.optim.Adam, number: int) -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad(set_to_none=True)
    model(images.to(memory_format=torch.channels_last)).square().mean().backward()
    optimizer.step()


def test_on_a_gpu_a_step_is_one_kernel_and_auto_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "has_fast_bfloat16", lambda device: True)
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(loop, "pick_device", lambda name, kind=kind: torch.device(kind))
        assert loop.Machine(RunSettings(threads=1)).bfloat16 is (kind == "cpu")
        assert loop.Machine(RunSettings(threads=1, precision="bfloat16")).bfloat16
        optimizer = loop.adam(net().parameters(), 1e-2, torch.device(kind))
        assert bool(optimizer.param_groups[0]["fused"]) is (kind == "cuda")


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_goes_on_from_its_file_as_if_it_had_not_stopped(fused: bool, tmp_path: Path) -> None:
    whole = net()
    optimizer = optimizer_of(whole, fused)
    for number in range(3):
        step(whole, optimizer, number)
    loop.save_state(tmp_path / "state", loop.optimizer_tensors(optimizer, "adam."), {})
    weights = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    for number in range(3, 6):
        step(whole, optimizer, number)

    again = net()
    again.load_state_dict(weights)
    restored = optimizer_of(again, fused)
    loop.restore_optimizer(restored, loop.load_state(tmp_path / "state")[0], "adam.")
    for group in restored.param_groups:
        group["fused"] = fused
    for parameter, entry in restored.state.items():
        assert entry["exp_avg"].stride() == parameter.stride(), "a single kernel needs both laid out alike"
    for number in range(3, 6):
        step(again, restored, number)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters(), strict=True))
