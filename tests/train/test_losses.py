"""The focal loss, by behaviour: a detector must never gain by calling good pixels defective."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flawmap.train.losses import extremes_loss, focal_loss


def logits_for(probability: torch.Tensor) -> torch.Tensor:
    """Logits (B, 2, H, W) whose softmax gives `probability` (B, H, W) to "defect"."""
    return torch.stack([(1 - probability).log(), probability.log()], dim=1)


@settings(max_examples=50, deadline=None)
@given(low=st.floats(0.001, 0.998), step=st.floats(0.0005, 0.5), share=st.floats(0.0, 0.9))
def test_calling_good_pixels_more_defective_never_pays(low: float, step: float, share: float) -> None:
    mask = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) < share
    mask[0, 0, 0] = False
    calm = torch.where(mask, 0.5, low)
    eager = torch.where(mask, 0.5, min(low + step, 0.999))
    assert focal_loss(logits_for(eager), mask) >= focal_loss(logits_for(calm), mask)


def test_gradient_pushes_good_pixels_down_and_defects_up() -> None:
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 1] = True
    focal_loss(logits, mask).backward()
    assert logits.grad is not None
    slope = logits.grad[0, 1]
    assert slope[1, 1] < 0
    assert (slope[~mask[0]] > 0).all()
    assert torch.allclose(slope[~mask[0]], -slope[1, 1]), "both classes weigh the same"


def test_a_perfect_map_costs_nothing_and_a_wrong_one_much() -> None:
    mask = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    sure = torch.where(mask, 30.0, -30.0)
    right = torch.stack([-sure, sure], 1)
    assert focal_loss(right, mask) < 1e-8
    assert focal_loss(-right, mask) > 5


def test_logits_not_probabilities_are_expected() -> None:
    """One softmax, not two: a confident right answer must come near zero (two would leave p at 0.73)."""
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    logits = torch.stack([torch.full((1, 2, 2), -8.0), torch.full((1, 2, 2), 8.0)], 1)
    assert focal_loss(logits, mask) < 1e-6


def test_a_toy_detector_learns_the_defect_and_leaves_the_rest_dark() -> None:
    """The behaviour that a port with two softmaxes and no weight on the good class fails: it lights up everywhere."""
    torch.manual_seed(0)
    net = torch.nn.Conv2d(1, 2, 3, padding=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(200):
        mask = torch.rand(4, 16, 16) > 0.9
        image = mask.float().unsqueeze(1) + 0.05 * torch.randn(4, 1, 16, 16)
        loss = focal_loss(net(image), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    map_ = torch.softmax(net(image), 1)[:, 1].detach()
    assert map_[mask].min() > 0.5
    assert map_[~mask].max() < 0.5


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_agrees_with_the_formula_written_out(gamma: float) -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 2, 5, 5), torch.rand(2, 5, 5) > 0.5
    p = torch.softmax(logits, 1)
    p = torch.where(mask, p[:, 1], p[:, 0])
    expected = ((1 - p) ** gamma * -p.log()).mean()
    assert torch.allclose(focal_loss(logits, mask, gamma=gamma), expected, atol=1e-4)


def test_extremes_push_the_worst_good_pixels_down_and_the_clearest_defective_ones_up() -> None:
    logits = torch.randn(2, 2, 50, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.zeros(2, 50, 50, dtype=torch.bool)
    mask[0, 10:20, 10:20] = True
    extremes_loss(logits, mask).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    pushed = logits.grad[:, 1]
    odds = (logits[:, 1] - logits[:, 0]).detach()
    assert (pushed[mask] <= 0).all() and (pushed[~mask] >= 0).all()
    for image, part, count in ((0, mask[0], 5), (0, ~mask[0], 5), (1, ~mask[1], 5)):  # 0.2 % of 2500 pixels
        moved = part & (pushed[image] != 0)
        assert int(moved.sum()) == count
        assert odds[image][moved].min() >= odds[image][part & ~moved].max()


def test_extremes_of_a_defect_smaller_than_the_share_or_of_all_pixels_are_finite() -> None:
    logits = torch.zeros(3, 2, 40, 40)
    mask = torch.zeros(3, 40, 40, dtype=torch.bool)
    mask[0, 3, 3] = True
    mask[1] = True
    assert extremes_loss(logits, mask).item() == pytest.approx((2 + 2 + 1) * math.log(2) / 3)


@pytest.mark.parametrize("loss", [focal_loss, extremes_loss])
def test_unsure_pixels_are_not_learned_from_either_way(loss: Callable[..., torch.Tensor]) -> None:
    logits = torch.randn(1, 2, 40, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask, unsure = torch.zeros(2, 1, 40, 40, dtype=torch.bool)
    mask[0, 5:15, 5:15] = True
    unsure[0, 20:40] = True
    loss(logits, mask, unsure=unsure).backward()
    assert logits.grad is not None
    pushed = logits.grad[0].abs().sum(0) > 0
    assert not pushed[unsure[0]].any()
    assert pushed[mask[0]].any() and pushed[~mask[0] & ~unsure[0]].any()
    none = torch.zeros_like(unsure)
    assert loss(logits, mask, unsure=none) == loss(logits, mask)
