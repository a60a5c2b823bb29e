"""Losses of DSR (Zavrtanik et al. 2022, §3.4; focal loss: Lin et al. 2017).

Axes: B images, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def focal_loss(
    logits: Tensor, mask: Tensor, gamma: float = 2.0, smoothing: float = 1e-5, unsure: Tensor | None = None
) -> Tensor:
    """Mean over pixels of -(1 - p)^gamma * log p, p the probability given to a pixel's true class.

    logits (B, 2, H, W), *before* softmax, channel 1 "defect"; mask (B, H, W) bool. Both classes weigh the same.
    Pixels of `unsure` (B, H, W) bool count nothing (beyond DSR); the mean is still over all of them.
    The authors smooth the one-hot target to [smoothing, 1 - smoothing] and add `smoothing` again to p, which keeps
    the logarithm finite: kept, so that their figures come out.
    """
    probabilities = torch.softmax(logits.float(), dim=1)
    defect = mask.float()
    target = torch.stack([1 - defect, defect], dim=1).clamp(smoothing, 1 - smoothing)
    p = (target * probabilities).sum(1) + smoothing
    loss = (1 - p).clamp_min(0).pow(gamma) * -p.log()
    return (loss if unsure is None else loss.masked_fill(unsure, 0.0)).mean()


def extremes_loss(logits: Tensor, mask: Tensor, share: float = 0.002, unsure: Tensor | None = None) -> Tensor:
    """Cross-entropy of the most suspicious pixels: those of the good surface, which decide whether a good part is
    rejected, and those of each defect, which decide whether it is found (beyond DSR).

    logits (B, 2, H, W) and mask (B, H, W) bool as in `focal_loss`. Of each image the log-odds of the `share` of its
    pixels that are most suspicious are averaged, once outside the mask (should be good) and once inside (defective;
    of images with a mask alone, and of at most all its pixels). Pixels of `unsure` (B, H, W) bool are neither.
    """
    odds = (logits[:, 1] - logits[:, 0]).float().flatten(1)  # (B, H * W)
    inside = mask.flatten(1)
    count = max(1, round(share * odds.shape[1]))
    left_out = inside if unsure is None else inside | unsure.flatten(1)
    outside = odds.masked_fill(left_out, -math.inf).topk(count, dim=1).values
    found = odds.masked_fill(~inside, -math.inf).topk(count, dim=1).values
    good, defective = _finite_mean(outside), _finite_mean(found)
    return (_softplus(good) + _softplus(-defective) * inside.any(1)).mean()


def highest_loss(logits: Tensor, share: float, ignored: Tensor | None = None) -> Tensor:
    """Cross-entropy that the most suspicious pixels of defective images are defective: for images without a mask.

    logits (B, 2, H, W). Of each image the log-odds of the `share` of its pixels that are most suspicious are averaged,
    without those `ignored` (B, H, W) bool.
    """
    odds = (logits[:, 1] - logits[:, 0]).float().flatten(1)
    if ignored is not None:
        odds = odds.masked_fill(ignored.flatten(1), -math.inf)
    count = max(1, round(share * odds.shape[1]))
    return _softplus(-_finite_mean(odds.topk(count, dim=1).values)).mean()


def _finite_mean(values: Tensor) -> Tensor:
    """Mean of the finite values of each row (B, N) -> (B,); 0 where there are none."""
    finite = values.isfinite()
    return torch.where(finite, values, 0.0).sum(1) / finite.sum(1).clamp_min(1)


def _softplus(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x)
