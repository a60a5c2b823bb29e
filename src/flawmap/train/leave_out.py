"""Score test photos as if the training photos near them had not been there (`flawmap evaluate`).

Besides its networks, what a bundle knows of good parts are memory banks, Gaussians and calibration points. All are made
of photos, and are made anew for each set of photos that is left out:

- Gaussians. Moments are sums over photos: those of the left out are subtracted, in float64. Whitening and principal
  components follow.
- Memory banks. Patches of these photos go, and as many of other photos come in their place (owned_bank.py).
- Calibration points. The maxima of photos that are left out go.

What differs from a training without these photos: other photos' patches stay as they were chosen; new ones come from
all folds alike, and are compared by the Gaussian of all photos; maxima of other photos were measured while these were
known, unless in the same fold; the networks have learnt from these photos, and so have the choice and the weights of
sources and the spatial standard deviations.

Axes: C channels, T test photos, P training photos.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flawmap.bundle import Bundle, load_imagenet, round_weights
from flawmap.data.scope import Scope
from flawmap.data.white import White
from flawmap.errors import BundleError, ConfigError, DataError
from flawmap.measure.evidence import GoodEvidence
from flawmap.measure.near_duplicates import (
    Bools,
    Near,
    Without,
    by_distance,
    by_folder,
    by_number,
)
from flawmap.model.familiarity import LOW, Moments
from flawmap.model.imagenet import ImageNetFeatures
from flawmap.train.familiar import PHOTOS, QUARTERS, TILES, Looks, add_moments, evenly, patches_of
from flawmap.train.owned_bank import OwnedBank, Photos
from flawmap.train.sources import GoodParts, names_of

FEWEST = 2  # training photos that must be left, to calibrate on and to fit to
CANDIDATES = 200_000  # patches of all photos that may come in the place of others, at most about
KEPT = 64  # photos whose moments are kept for the next test photo
PAIRED = 4096  # training photos whose distances from each other are measured, at most about


class LeaveOut:
    """A bundle's score sources without some of the photos it was trained on; `good` are these, in any order.

    The model of the bundle is changed in place by `apply`. Raises BundleError for a bundle that cannot do without a
    photo, DataError when `good` are not the photos it was trained on, ImageError for a broken one.
    """

    @torch.no_grad()
    def __init__(self, bundle: Bundle, name: str | Path, good: Sequence[Path]) -> None:
        if bundle.evidence is None or bundle.model.familiarity is None:
            raise BundleError(
                f"{name} has no feature scores (model.familiarity), or was trained by an earlier flawmap: it cannot do "
                "without a training photo"
            )
        if bundle.provenance.get("taken_in"):
            raise BundleError(
                f"{name} has taken in photos that are not among its training photos; evaluate the bundle that it was "
                "refined from"
            )
        self.bundle, self.name, self.evidence = bundle, name, bundle.evidence
        self.device = next(bundle.model.parameters()).device
        self.scope = Scope(bundle.recipe.image, bundle.ignore)
        self.paths, self.calibrating = self._photos(sorted(good))
        cross = bundle.recipe.threshold.calibration == "cross-fitted"
        trained = [number for number in range(len(self.paths)) if number not in {*self.calibrating}]
        self.fitted = frozenset(self.calibrating if cross else evenly(trained, PHOTOS))
        self._looks = Looks(bundle.model, self.device, room=0)
        self._whole = {
            source: Moments.of([sums[source] for sums in self.evidence.moments.values()])
            for source in self.evidence.kinds[1:]
        }
        self._moments = functools.lru_cache(KEPT)(self._moments_of)
        self._distances = functools.lru_cache(1)(self._distances_of)
        pictures = len(self.paths) * (1 if bundle.recipe.image.policy == "resize" else 2 * TILES)  # fewer than 2 TILES
        self._turned = bundle.recipe.model.turned_patches == "always"
        pictures *= 1 + len(QUARTERS) if self._turned else 1
        room = max(CANDIDATES // max(pictures, 1), 1)
        self._banks = {
            source: OwnedBank(source, self.evidence, self._looks, pictures, room) for source in self.evidence.patches
        }
        self._find_patches()
        # photos of which anything is known
        self.known = self.fitted.union(self.calibrating, *(bank.owners.tolist() for bank in self._banks.values()))
        self._as_trained, self._changed = bundle.model.familiarity, copy.deepcopy(bundle.model.familiarity)
        self._left_out: Photos = frozenset()  # of `_changed`

    def _photos(self, good: Sequence[Path]) -> tuple[list[Path], list[int]]:
        """Photos that may be known, and the numbers of those calibrated on, in the order of `GoodEvidence.largest`."""
        told, aside = (self.bundle.provenance.get(key) or [] for key in ("good_photos", "set_aside"))
        if len(told) != len(self.evidence.groups):
            raise BundleError(f"{self.name} does not know its good photos by name; train it again with this flawmap")
        named = dict(zip(names_of(good, good), good, strict=True)) if good else {}
        if missing := [photo for photo in (*told, *aside) if photo not in named]:
            raise DataError(
                f"{self.name} was trained on {missing[0]}, which is not among these training photos; give the data set "
                "that it was trained on"
            )
        paths = [path for photo, path in named.items() if photo not in {*aside}]
        numbers = {path: number for number, path in enumerate(paths)}
        return paths, [numbers[named[photo]] for photo in told]

    def _place(self, path: Path, white: White | None = None) -> tuple[GoodParts, int]:
        """A photo to look at; it is read now, and not kept. `white`: of 16 bits; None: as training photos."""
        return GoodParts([path], self.bundle.recipe, self.scope, white=white), 0

    def _find_patches(self) -> None:
        """Find the photo of each patch in the memory banks, and candidates for others. Raises DataError."""
        for number, path in enumerate(self.paths) if self._banks else ():
            place = self._place(path)
            turned = self._looks.turned(place, TILES) if self._turned else ()
            for features, inside in itertools.chain(self._looks.pretrained(place, TILES), turned):
                for source, bank in self._banks.items():
                    bank.add(number, patches_of(features[source], inside, bank.candidates.around))
        for bank in self._banks.values():
            if lost := bank.lost():
                raise DataError(
                    f"{lost} of {len(bank.patches)} patches in the memory bank of {self.name} are of none of these "
                    f"{len(self.paths)} training photos; give the data set that it was trained on"
                )

    def without(self, near: Near, test: Sequence[Path]) -> Without:
        """How to score the photos `test` without the training photos near them by a rule.

        Raises ConfigError when too few are left, or for a name without the number that the rule goes by; ImageError.
        """
        photos = {
            path: frozenset(np.flatnonzero(row).tolist())
            for path, row in zip(test, self._near(near, test), strict=True)
        }
        for path, gone in photos.items():
            for left in ({*self.calibrating} - gone, self.fitted - gone):
                if len(left) < FEWEST:
                    raise ConfigError(
                        f"--near {near} leaves out {len(gone)} of {len(self.paths)} training photos for {path}, and "
                        "too few are left; choose another rule, as number:200 or features:0.01"
                    )

        def prepare(path: Path | None) -> None:
            self.apply(frozenset() if path is None else photos[path])

        return Without(near, {path: len(gone) for path, gone in photos.items()}, prepare)

    def _near(self, near: Near, test: Sequence[Path]) -> Bools:
        """Which training photos are near each test photo: (T, P)."""
        if near.rule == "folder":
            return by_folder(test, self.paths)
        if near.rule == "number":
            return by_number(test, self.paths, near.within)
        away, among = self._distances(tuple(test))
        return by_distance(away.numpy(), among.numpy(), near.within)

    @torch.no_grad()
    def _distances_of(self, test: tuple[Path, ...]) -> tuple[Tensor, Tensor]:
        """Distances (T, P) of test photos from training photos, and of training photos from each other (pairs,).

        Of the mean pretrained features of low resolution, each over its standard deviation among training photos.
        """
        theirs = self._mean_features(self.paths)
        spread = theirs.std(0).clamp_min(1e-6)
        ours, theirs = self._mean_features(test, self.bundle.white) / spread, theirs / spread
        among = torch.pdist(theirs[:: -(-len(theirs) // PAIRED)])
        return torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist"), among

    def _mean_features(self, paths: Sequence[Path], white: White | None = None) -> Tensor:
        """Mean features of low resolution of each photo, of what counts: (photos, C) float64, on the CPU."""
        model = self.bundle.model
        known = model.familiarity is not None and LOW in model.familiarity.sources
        network: ImageNetFeatures | None = None
        if not known:
            network = ImageNetFeatures().to(self.device).eval()
            load_imagenet(network)
        found = []
        for path in paths:
            cells = []
            parts, number = self._place(path, white)
            for picture, inside in parts.pictures(number, TILES):
                pictures = picture.to(self.device)
                features = model.pretrained(pictures)[LOW] if network is None else network(pictures)
                cells.append(patches_of(features, inside, 1).cpu().double())
            found.append(torch.cat(cells).mean(0))
        return torch.stack(found)

    @torch.no_grad()
    def apply(self, left_out: Photos) -> None:
        """Set the score sources of the bundle's model without these photos, and with all others. In place.

        Where nothing that is known is of them, and where none are left out, these are as trained, to the bit.
        """
        model = self.bundle.model
        known = left_out & self.known
        if known and known != self._left_out:
            self.evidence_without(known).wear(self._changed)
            round_weights(self._changed)
            self._left_out = known
        model.familiarity = self._changed if known else self._as_trained

    def evidence_without(self, left_out: Photos) -> GoodEvidence:
        """Reference statistics of all other photos, as one fold."""
        gone = [self._moments(number) for number in sorted(left_out & self.fitted)]
        rest = {source: sums.without([each[source] for each in gone]) for source, sums in self._whole.items()}
        kept = np.array([number not in left_out for number in self.calibrating], np.bool_)
        return replace(
            self.evidence,
            moments={0: rest},
            groups=np.zeros(int(kept.sum()), np.int64),
            largest=self.evidence.largest[kept],
            peaks=self.evidence.peaks[kept],
            patches={source: {0: bank.without(left_out)} for source, bank in self._banks.items()},
        )

    def _moments_of(self, number: int) -> dict[str, Moments]:
        """Moments of one photo's features, by source."""
        empty = np.zeros((0, len(self.evidence.kinds)))
        told = replace(self.evidence, moments={}, groups=np.zeros(0, np.int64), largest=empty, peaks=empty[:, 0])
        add_moments(told, [(self._place(self.paths[number]), 0)], self._looks)
        return told.moments[0]
