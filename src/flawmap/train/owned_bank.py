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
from typing import NamedTuple

import torch
from torch import Tensor

from flawmap.measure.evidence import GoodEvidence
from flawmap.train.familiar import Candidates, Looks

Photos = frozenset[int]  # training photos, by number

FOUND = 0.1  # mean squared distance, in standard deviations, up to which a patch is found again in a photo
SAME = 1e-5  # of a point's squared length: rounding of the distance from itself


class _Candidates(NamedTuple):
    """Points (M, D), their squared lengths (M,), patches (M, C), photos, nearest patches of the bank (M,) and squared
    distances from these (M,)."""

    points: Tensor
    squares: Tensor
    patches: Tensor
    photos: Tensor
    nearest: Tensor
    away: Tensor


class OwnedBank:
    """The memory bank of a source: the photo of each patch, and candidates to take others' places.

    There are up to `room` candidates of each of so many `pictures`. patches: (N, C), as stored; owners: (N,) the number
    of each one's photo.
    """

    def __init__(self, source: str, evidence: GoodEvidence, looks: Looks, pictures: int, room: int) -> None:
        self.candidates = Candidates(source, evidence, looks)
        self.patches = torch.cat(list(evidence.patches[source].values()))
        self.owners = torch.full((len(self.patches),), -1)
        self._points = self.candidates.projected(self.patches.to(looks.device))  # (N, D)
        self._found_at = torch.full((len(self.patches),), math.inf, device=looks.device)
        self._room, self._count = room, 0
        most, device = pictures * room, looks.device
        # Of candidates, in one piece each: many small ones, among larger ones that are freed, take thrice the memory.
        self._of = _Candidates(
            torch.empty(most, self._points.shape[1], device=device),
            torch.empty(most, device=device),
            torch.empty(most, self.patches.shape[1], dtype=torch.float16),
            torch.empty(most, dtype=torch.long, device=device),
            torch.empty(most, dtype=torch.long, device=device),
            torch.empty(most, device=device),
        )

    def add(self, photo: int, patches: Tensor) -> None:
        """Add all patches (n, C) of a picture of a photo: those of the bank that are among them are its own, and some
        are candidates."""
        stored = patches.half()
        points = self.candidates.projected(stored)
        away = _squared_distances(points, self._points)  # (n, N)
        found_at = away.amin(0)
        closer = found_at < self._found_at
        self._found_at = torch.where(closer, found_at, self._found_at)
        self.owners[closer.cpu()] = photo
        step = max(-(-len(points) // self._room), 1)
        points, least = points[::step], away[::step].min(1)
        place = slice(self._count, self._count + len(points))
        chosen = points, points.square().sum(1), stored[::step].cpu(), torch.tensor(photo), least.indices, least.values
        for each, found in zip(self._of, chosen, strict=True):
            each[place] = found
        self._count += len(points)

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
        points, squares, patches, photos, nearest, away = (each[: self._count] for each in self._of)
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
        return torch.cat([self.patches[~gone], patches[chosen].float()])


def _squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """(n, D) and (m, D) to (n, m)."""
    squares = points.square().sum(1, keepdim=True) + others.square().sum(1)
    return (squares - 2 * points @ others.t()).clamp_min(0)
