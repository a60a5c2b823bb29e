"""Few points that stand for many: greedy k-centre selection, each as far as possible from those chosen before it.

Source: Gonzalez 1985; as the choice of what to remember of good parts, Roth et al. 2022.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def core_set(points: Tensor, count: int) -> Tensor:
    """Numbers (count,) of the points (N, D) that are chosen, or of all N where these are no more.

    The first is the one nearest to the mean, each further one the farthest from all before it; where fewer than
    `count` differ, some come again.
    """
    if count >= len(points):
        return torch.arange(len(points), device=points.device)
    squares = points.square().sum(1)
    chosen = [int((squares - points @ (2 * points.mean(0))).argmin())]
    away = torch.full_like(squares, math.inf)
    while len(chosen) < count:
        last = points[chosen[-1]]
        torch.minimum(away, squares - points @ (2 * last) + last.square().sum(), out=away)
        chosen.append(int(away.argmax()))
    return torch.tensor(chosen, device=points.device)
