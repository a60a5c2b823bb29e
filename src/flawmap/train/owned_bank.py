"""A memory bank that knows of which photo each patch is, and does without some photos.

A bundle keeps patches, not of which photo each is: that is the photo in which it is found again. When a photo is left
out, its patches go. As the coreset had no need of what these stood for, as many are chosen anew: the k-center greedy
goes on from the patches that stay, among those of all other photos, in the directions in which training compared them.

Why not choose all patches of the folds concerned anew: in high resolution it takes several times as long, and it is no
more exact. On Magnetic Tile, with no photo left out, a sixth of the patches of a fold came out otherwise, by rounding
alone. Photos that are left out lie as far from either bank (largest distances differ by 0.1 % on average, 0.4 % in
standard deviation; they double where these photos are left out).

Axes: N patches of the memory bank, M candidates, n patches of a picture, C channels, D directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flawmap.measure.evidence import GoodEvidence
from flawmap.train.familiar import Candidates, Looks

Photos = frozenset[int]  # training photos, by number

FOUND = 0.1  # mean squared distance, in standard deviations, up to which a patch is found again in a photo
SAME = 1e-5  # of a point's squared length: rounding of the distance from itself


class OwnedBank:
    """The memory bank of a source: the photo of each patch, and candidates from all photos to take others' places.

    patches: (N, C), as stored; owners: (N,) the number of each one's photo
    """

    def __init__(self, source: str, evidence: GoodEvidence, looks: Looks) -> None:
        self.candidates = Candidates(source, evidence, looks)
        self.patches = torch.cat(list(evidence.patches[source].values()))
        self.owners = torch.full((len(self.patches),), -1)
        self._points = self.candidates.projected(self.patches.to(looks.device))  # (N, D)
        self._found_at = torch.full((len(self.patches),), math.inf, device=looks.device)
        # of the candidates, some at a time: squared length, photo, nearest patch of the bank, squared distance from it
        self._squares: list[Tensor] = []
        self._photos: list[Tensor] = []
        self._nearest: list[Tensor] = []
        self._away: list[Tensor] = []

    def add(self, photo: int, patches: Tensor, room: int) -> None:
        """All patches (n, C) of a picture of a photo: whether those of the bank are among them, and about `room` of
        them as candidates."""
        stored = patches.half()
        points = self.candidates.projected(stored)
        away = _squared_distances(points, self._points)  # (n, N)
        found_at = away.amin(0)
        closer = found_at < self._found_at
        self._found_at = torch.where(closer, found_at, self._found_at)
        self.owners[closer.cpu()] = photo
        step = max(-(-len(points) // max(room, 1)), 1)
        points, least = points[::step].clone(), away[::step].min(1)  # a view would keep all of them in memory
        self.candidates.points.append(points)
        self.candidates.cells.append(stored[::step].cpu().clone())
        self._squares.append(points.square().sum(1))
        self._photos.append(torch.full((len(least.values),), photo, device=points.device))
        self._nearest.append(least.indices)
        self._away.append(least.values)

    def lost(self) -> int:
        """How many patches are of no photo."""
        return int((self._found_at > FOUND * self._points.shape[1]).sum())

    def without(self, left_out: Photos) -> Tensor:
        """Patches (N, C) of all other photos: those of the bank, and as many as were left out chosen anew.

        Each is the candidate farthest from all patches that are there. Fewer, where no more differ.
        """
        gone = torch.isin(self.owners, torch.tensor(sorted(left_out)))
        if not bool(gone.any()):
            return self.patches
        points, squares, cells, photos, nearest, away = self._all()
        away = away.clone()
        alone = gone.to(nearest.device)[nearest]  # what stood for them goes
        stay = self._points[~gone.to(points.device)]
        away[alone] = _squared_distances(points[alone], stay).amin(1) if len(stay) else math.inf
        away[torch.isin(photos, torch.tensor(sorted(left_out), device=photos.device))] = -math.inf
        chosen: list[int] = []
        for _ in range(int(gone.sum())):
            farthest = int(away.argmax())
            if away[farthest] <= SAME * squares[farthest]:
                break
            chosen.append(farthest)
            torch.minimum(away, squares - points @ (2 * points[farthest]) + squares[farthest], out=away)
        return torch.cat([self.patches[~gone], cells[chosen].float()])

    def _all(self) -> tuple[Tensor, ...]:
        """Candidates: points (M, D), their squared lengths (M,), patches (M, C), photos, nearest patches of the bank
        and squared distances from these (M,)."""
        parts = self.candidates.points, self._squares, self.candidates.cells, self._photos, self._nearest, self._away
        for each in parts:
            if len(each) > 1:
                each[:] = [torch.cat(each)]
        return tuple(each[0] for each in parts)


def _squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """(n, D) and (m, D) to (n, m)."""
    squares = points.square().sum(1, keepdim=True) + others.square().sum(1)
    return (squares - 2 * points @ others.t()).clamp_min(0)
