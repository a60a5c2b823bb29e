"""What good photos have told of the kinds of evidence: enough to set familiarity by it, and to add photos later.

For each group of photos the moments of their features, and features of places that are remembered; for each photo the
largest of each kind of evidence, by Gaussians and places that its own group had no part in; for each kind how much it
counts. Gaussians and calibration then follow for all photos, or for all but a
group.

Axes: P photos, K kinds of evidence, the map's first, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flawmap.measure.calibration import calibration
from flawmap.model.familiarity import (
    LEAST,
    LOW,
    MAP,
    PRETRAINED,
    SHRINKAGE,
    SHRINKAGE_OF_MEMORY,
    STEEPNESS,
    Familiarity,
    Moments,
)

Floats = np.ndarray[Any, np.dtype[np.float64]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]

NONE = -2  # no group


@dataclass
class GoodEvidence:
    """What good photos have told.

    kinds: names of the evidence, the map's first; moments: by group, of each source's features
    groups: (P,) of each photo; largest: (P, K) evidence of each; peaks: (P,) largest value of the map that is shown
    usual: (K,) deviation of the evidence from place to place
    trust: (K,) how much each counts, as its deviations above good parts are multiplied by; without it all alike
    patches: of each source with a memory bank, by group, features (N, C); empty without `model.memory`
    remembered: how many photos these patches are of
    """

    kinds: tuple[str, ...]
    moments: dict[int, dict[str, Moments]]
    groups: Numbers
    largest: Floats
    peaks: Floats
    usual: Floats
    trust: Floats = field(default_factory=lambda: np.ones(0))
    patches: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    remembered: int = 0
    _fitted: dict[tuple[str, int, int, int], tuple[Tensor, Tensor, Tensor | None]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __repr__(self) -> str:
        return f"<GoodEvidence of {len(self.groups)} photos: {', '.join(self.kinds)}>"

    def __post_init__(self) -> None:
        if not len(self.trust):
            self.trust = np.ones(len(self.kinds))

    def wear(self, familiarity: Familiarity, left_out: int = NONE) -> None:
        """Set Gaussians and calibration as all photos tell but those of the group `left_out`. In place."""
        self.wear_gaussians(familiarity, left_out)
        others = self.groups != left_out
        chosen = self.largest[others if others.any() else ~others]
        for number, name in enumerate((self.kinds[0], *familiarity.sources)):
            kind = self.kinds.index(name)
            knots, heights = calibration(chosen[:, kind].tolist(), float(self.usual[kind]))
            familiarity.knots[number], familiarity.heights[number] = knots, float(self.trust[kind]) * heights
            if familiarity.floors is not None:
                familiarity.floors[number] = LEAST * float(self.trust[kind])
        if len(familiarity.shares) > 1 and not familiarity.shares[1:].any():  # detection's map is shown alone, as it is
            familiarity.shares[0] = 1 / float(self.trust[self.kinds.index(MAP)])

    def wear_gaussians(self, familiarity: Familiarity, left_out: int = NONE) -> None:
        """Set the Gaussians alone, and what they remember. In place."""
        if left_out not in self.moments and not any(left_out in groups for groups in self.patches.values()):
            left_out = NONE  # a group of photos that none of these are of
        parts = [sums for group, sums in self.moments.items() if group != left_out] or list(self.moments.values())
        for name, density in familiarity.named_densities():
            bank = self.patches.get(name, {})
            kept = [cells for group, cells in bank.items() if group != left_out] or list(bank.values())
            count = sum(map(len, kept))
            known = name, left_out, sum(sums[name].count for sums in parts), count  # both are only ever added to
            if known not in self._fitted:
                patches = torch.cat(kept) if count else None
                together = Moments.of([sums[name] for sums in parts])
                shrinkage = SHRINKAGE if patches is None else SHRINKAGE_OF_MEMORY
                density.fit(together.mean(), together.covariance(), shrinkage)
                mean, whitening = density.mean.clone(), density.whitening.clone()
                if patches is not None:  # whitened as it will be stored, like what it is held against
                    density.mean.copy_(mean.half())
                    density.whitening.copy_(whitening.half())
                density.remember(patches)
                self._fitted[known] = mean, whitening, density.memory
            mean, whitening, memory = self._fitted[known]
            density.mean.copy_(mean)
            density.whitening.copy_(whitening)
            density.memory = None if memory is None else memory.clone()

    def scores(self, familiarity: Familiarity, round_weights: Any = lambda module: None) -> list[float]:
        """The score of each photo by what the other groups tell, as of `deviations`. Leaves all told."""
        return torch.sigmoid(STEEPNESS * torch.tensor(self.deviations(familiarity, round_weights))).tolist()

    def deviations(self, familiarity: Familiarity, round_weights: Any = lambda module: None) -> list[float]:
        """All evidence of each photo as one, by what the other groups tell, from its largest. Leaves all told.

        With `model.fusion` = "log-mean-exp" it may be too large (`Familiarity.together`).
        """
        found = []
        for group, largest in zip(self.groups.tolist(), self.largest, strict=True):
            self.wear(familiarity, group)
            round_weights(familiarity)
            chosen = [largest[self.kinds.index(name)] for name in (self.kinds[0], *familiarity.sources)]
            found.append(float(familiarity.together(torch.tensor(chosen, device=familiarity.knots.device))))
        self.wear(familiarity)
        round_weights(familiarity)
        return found

    def only(self, kinds: Sequence[str]) -> GoodEvidence:
        """Of these kinds alone, the map's among them."""
        chosen = [self.kinds.index(name) for name in kinds]
        moments = {
            group: {name: each for name, each in sums.items() if name in kinds} for group, sums in self.moments.items()
        }
        return replace(
            self, kinds=tuple(kinds), moments=moments, largest=self.largest[:, chosen], usual=self.usual[chosen],
            trust=self.trust[chosen], patches={name: bank for name, bank in self.patches.items() if name in kinds},
        )  # fmt: skip

    def joined(self, other: GoodEvidence) -> GoodEvidence:
        """With the photos of `other`, which has the same kinds, as further groups."""
        assert self.kinds == other.kinds, "evidence of the same kinds"
        known = {group for bank in self.patches.values() for group in bank}
        first = 1 + max((*self.moments, *known, *self.groups.tolist()))
        numbers = {group: first + number for number, group in enumerate(sorted(other.moments))}
        return replace(
            self,
            moments=self.moments | {numbers[group]: sums for group, sums in other.moments.items()},
            groups=np.concatenate([self.groups, [numbers[group] for group in other.groups.tolist()]]).astype(np.int64),
            largest=np.concatenate([self.largest, other.largest]),
            peaks=np.concatenate([self.peaks, other.peaks]),
            patches={
                name: bank | {numbers[group]: cells for group, cells in other.patches.get(name, {}).items()}
                for name, bank in self.patches.items()
            },
            remembered=self.remembered + other.remembered,
        )

    def tensors(self) -> dict[str, Tensor]:
        """As stored; kinds are in the names."""
        stored = {
            "groups": torch.from_numpy(self.groups).float(),
            "largest": torch.from_numpy(self.largest).float(),
            "peaks": torch.from_numpy(self.peaks).float(),
            "usual": torch.from_numpy(self.usual).float(),
            "trust": torch.from_numpy(self.trust).float(),
            "moments.groups": torch.tensor([float(group) for group in self.moments]),
        }
        for name in self.kinds[1:]:
            parts = [sums[name] for sums in self.moments.values()]
            stored[f"counts.{name}"] = torch.tensor([float(part.count) for part in parts])
            stored[f"means.{name}"] = torch.stack([part.mean() for part in parts]).float()
            down, across = torch.tril_indices(len(parts[0].mean()), len(parts[0].mean()))  # the rest mirrors it
            stored[f"covariances.{name}"] = torch.stack([part.covariance()[down, across] for part in parts]).float()
        for name, bank in self.patches.items():
            stored[_bank("patches", name)] = torch.cat(list(bank.values())).half()
            owners = [float(group) for group, cells in bank.items() for _ in cells]
            stored[_bank("patches.groups", name)] = torch.tensor(owners)
        if self.patches:
            stored["patches.photos"] = torch.tensor([float(self.remembered)])
        return {name: tensor.contiguous() for name, tensor in stored.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], kinds: Sequence[str]) -> GoodEvidence:
        """As read; KeyError or ValueError when they are not these."""
        moments: dict[int, dict[str, Moments]] = {}
        for number, group in enumerate(tensors["moments.groups"].long().tolist()):
            moments[group] = {
                name: Moments.from_mean(
                    int(tensors[f"counts.{name}"][number]),
                    tensors[f"means.{name}"][number].double(),
                    _square(tensors[f"covariances.{name}"][number].double(), len(tensors[f"means.{name}"][number])),
                )
                for name in kinds[1:]
            }
        groups = tensors["groups"].long().numpy()
        largest, peaks, usual = (tensors[name].double().numpy() for name in ("largest", "peaks", "usual"))
        if largest.shape != (len(groups), len(kinds)) or peaks.shape != groups.shape or usual.shape != (len(kinds),):
            raise ValueError("evidence of other kinds")
        trust = tensors["trust"].double().numpy() if "trust" in tensors else np.ones(len(kinds))
        if trust.shape != (len(kinds),):
            raise ValueError("trust in other kinds")
        patches: dict[str, dict[int, Tensor]] = {}
        for name in PRETRAINED:
            if _bank("patches", name) in tensors:
                owners = tensors[_bank("patches.groups", name)].long()
                cells = tensors[_bank("patches", name)].float()
                if len(owners) != len(cells):
                    raise ValueError("patches without their groups")
                patches[name] = {group: cells[owners == group] for group in dict.fromkeys(owners.tolist())}
        remembered = int(tensors["patches.photos"]) if patches else 0
        return cls(tuple(kinds), moments, groups, largest, peaks, usual, trust, patches, remembered)


def _bank(tensor: str, source: str) -> str:
    """Name of a stored tensor of the memory bank of `source`; that of low resolution was once the only one."""
    return tensor if source == LOW else f"{tensor}.{source}"


def _square(stored: Tensor, channels: int) -> Tensor:
    """A covariance (C, C) from its lower triangle, row by row; an older flawmap stored it whole."""
    if stored.dim() == 2:
        return stored
    whole = stored.new_zeros(channels, channels)
    down, across = torch.tril_indices(channels, channels)
    whole[down, across] = stored
    whole[across, down] = stored
    return whole
