"""Losses of DSR (Zavrtanik et al. 2022, §3.4; focal loss: Lin et al. 2017).

Axes: B images, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0, smoothing: float = 1e-5) -> Tensor:
    """Mean over pixels of -(1 - p)^gamma * log p, p the probability given to a pixel's true class.

    logits (B, 2, H, W), *before* softmax, channel 1 "defect"; mask (B, H, W) bool. Both classes weigh the same.
    The authors smooth the one-hot target to [smoothing, 1 - smoothing] and add `smoothing` again to p, which keeps
    the logarithm finite: kept, so that their figures come out.
    """
    probabilities = torch.softmax(logits.float(), dim=1)
    defect = mask.float()
    target = torch.stack([1 - defect, defect], dim=1).clamp(smoothing, 1 - smoothing)
    p = (target * probabilities).sum(1) + smoothing
    return ((1 - p).clamp_min(0).pow(gamma) * -p.log()).mean()
