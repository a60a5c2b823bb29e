"""InstanceNorm by way of BatchNorm's kernel gives PyTorch's own numbers, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flawmap.model.blocks import InstanceNorm, normalisation


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_instance_norm_is_pytorchs(batch: int, layout: torch.memory_format, precision: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    given = (3 + 5 * torch.randn(batch, 6, 8, 12, generator=generator)).to(precision)
    weight = torch.randn(batch, 6, 8, 12, generator=generator)
    found = []
    for norm in (InstanceNorm(6), nn.InstanceNorm2d(6)):
        x = given.clone(memory_format=layout).requires_grad_(True)
        y = norm(x)
        (y * weight).sum().backward()
        assert y.dtype == precision
        found.append((y.detach(), x.grad))
    if precision == torch.bfloat16:
        assert found[0][0].is_contiguous(memory_format=layout), "no image is laid out anew"
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None and theirs is not None
        if precision == torch.float32:
            assert torch.equal(ours, theirs), "float32 is PyTorch's own"
        assert torch.allclose(ours.float(), theirs.float(), rtol=0.02, atol=0.02)


def test_an_image_is_normalised_by_itself_whatever_else_is_in_the_batch() -> None:
    images = torch.randn(4, 6, 8, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 2, 5, 9.0]).view(
        4, 1, 1, 1
    )
    images = images.to(torch.bfloat16, memory_format=torch.channels_last)
    norm = normalisation("instance", 6).eval()
    assert torch.equal(norm(images)[2:3], norm(images[2:3]))
    assert not list(norm.state_dict())
