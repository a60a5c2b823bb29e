"""Does an artefact find what PyTorch finds? Asked on real images, of the file that will be handed over.

Full precision. DSR replaces every feature by the nearest code, and among thousands of cells one now and then lies
between two codes that are equally near to the last digit. There float32 has no answer: PyTorch itself takes another
code in another memory layout, and the map changes at that place by up to 0.1. So two things are asked of an artefact:
that every code it took is as near as the nearest, up to rounding; and that PyTorch, given the same codes, finds the
same map and score to 1e-4. What differs without giving the codes is reported beside it.

Lower precision takes other codes in many cells, and is asked whether it ranks parts alike: Spearman's rank correlation
of scores, AUROC and AP of good images against the same with painted defects (model/painting.py).

Axes: B images, H, W an image's rows and columns, h, w the network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flawmap.bundle import Bundle
from flawmap.data.dataset import network_input
from flawmap.data.images import to_uint8
from flawmap.data.shapes import decoy_masks, defect_masks
from flawmap.deploy.artefact import Session
from flawmap.deploy.graph import CHOICES, searching
from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.model.codebook import Codebook, cells_of
from flawmap.model.dsr import DSR
from flawmap.model.painting import Ways, paint

TOLERANCE = 1e-4  # of map and score, both in [0, 1]
TIE = 4e-6  # of |feature|^2 + |code|^2; the search's own rounding comes to 4e-7
RANK, LOSS = 0.9, 0.02  # what lower precision must reach in Spearman's rho, and may lose of AUROC and of AP

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Agreement:
    """An artefact in full precision against PyTorch; differences are the largest over all images.

    map, score: with PyTorch given the artefact's codes; plain_map, plain_score: with PyTorch's own
    other_codes: share of cells whose code is another; excess: how much farther the farthest of these is than the
    nearest code, as a share of |feature|^2 + |code|^2
    """

    images: int
    map: float
    score: float
    plain_map: float
    plain_score: float
    other_codes: float
    excess: float

    @property
    def fault(self) -> str:
        """Why it is refused, or ""."""
        if not self.excess <= TIE:
            return f"it takes a code that is not the nearest (by {self.excess:.1g} of the squared lengths)"
        if not max(self.map, self.score) <= TOLERANCE:  # also catches NaN
            return f"its map differs by {self.map:.1g} and its score by {self.score:.1g}, more than {TOLERANCE:.0e}"
        return ""

    def __str__(self) -> str:
        return (
            f"agrees with PyTorch on {self.images} images: map within {self.map:.1e}, score within {self.score:.1e}; "
            f"{self.other_codes:.2g} of the codes were too close to call (with them, {self.plain_map:.1e} and "
            f"{self.plain_score:.1e})"
        )


@dataclass(frozen=True)
class Ranking:
    """An artefact in lower precision against PyTorch, on good images and the same with painted defects.

    rank: Spearman's correlation of scores; auroc, ap: the artefact's, full_auroc, full_ap: PyTorch's
    largest_change, mean_change: of a score; other_codes: share of cells whose code is another
    """

    images: int
    rank: float
    auroc: float
    full_auroc: float
    ap: float
    full_ap: float
    largest_change: float
    mean_change: float
    other_codes: float

    @property
    def fault(self) -> str:
        """Why it is refused, or ""."""
        if not self.rank >= RANK:
            return f"it ranks parts otherwise (Spearman {self.rank:.3f}, at least {RANK} is asked)"
        for name, found, full in (("AUROC", self.auroc, self.full_auroc), ("AP", self.ap, self.full_ap)):
            if not found >= full - LOSS:
                return f"its {name} on painted defects is {found:.3f}, and {full:.3f} in full precision"
        return ""

    def __str__(self) -> str:
        return (
            f"ranks {self.images} images like PyTorch: Spearman {self.rank:.3f}; painted defects: AUROC "
            f"{self.auroc:.3f} (full precision {self.full_auroc:.3f}), AP {self.ap:.3f} ({self.full_ap:.3f}); scores "
            f"change by up to {self.largest_change:.3f}, {self.mean_change:+.3f} on average; {self.other_codes:.0%} of "
            "the codes are others"
        )


def compare(session: Session, bundle: Bundle, images: Sequence[Pixels]) -> Agreement:
    """Compare a whole artefact with `bundle` on images (H, W, 3) uint8 BGR."""
    others, cells = 0, 0
    excesses: list[float] = []
    differences: list[list[float]] = []  # of each image: map and score given the codes, then plain
    for image in images:
        found = session(image[None])
        pixels = _network_pixels(image, bundle)
        choices = _choices(found)
        with torch.inference_mode():
            own = bundle.model(pixels)
        given, other, excess = following(bundle.model, pixels, choices)
        others, cells = others + other, cells + sum(choice.numel() for choice in choices)
        excesses.append(excess)
        differences.append(
            [
                float(np.abs(found[name] - of_torch.numpy()).max())
                for result in (given, own)
                for name, of_torch in (("map", result.map), ("score", result.score))
            ]
        )
    largest = np.max(differences, axis=0).tolist()  # unlike max, keeps a NaN
    return Agreement(
        len(images),
        map=largest[0],
        score=largest[1],
        plain_map=largest[2],
        plain_score=largest[3],
        other_codes=others / cells,
        excess=max(excesses),
    )


def following(model: DSR, pixels: Tensor, choices: Sequence[Tensor]) -> tuple[Any, int, float]:
    """`model` on pixels (1, 3, h, w) with the codes given for each of its searches, in their order.

    Returns its result, in how many cells its own code would have been another, and how much farther at most a given
    code is than the nearest, as a share of |feature|^2 + |code|^2.
    """
    waiting = list(choices)
    others, excess = 0, 0.0

    def search(book: Codebook, features: Tensor) -> Tensor:
        nonlocal others, excess
        given = waiting.pop(0)
        cells = cells_of(features)
        own = Codebook.nearest(book, features).flatten()
        differ = (own != given.flatten()).nonzero().flatten()
        if len(differ):
            far = book.distances(cells[differ])
            theirs = far.gather(1, given.flatten()[differ, None]).squeeze(1)
            scale = cells[differ].square().sum(1) + book.vectors[own[differ]].square().sum(1)
            excess = max(excess, float(((theirs - far.amin(1)) / scale).max()))
            others += len(differ)
        return given

    with torch.inference_mode(), searching(model, search):
        return model(pixels), others, excess


def rank(session: Session, bundle: Bundle, images: Sequence[Pixels], seed: int = 0) -> Ranking:
    """Rank good images (H, W, 3) uint8 BGR and the same with painted defects, by the artefact and by PyTorch."""
    full, lower, others, cells = [], [], 0, 0
    parts = [*images, *painted(bundle, images, seed)]
    for image in parts:
        found = session(image[None])
        mine: list[Tensor] = []

        def search(book: Codebook, features: Tensor, mine: list[Tensor] = mine) -> Tensor:
            mine.append(Codebook.nearest(book, features))
            return mine[-1]

        with torch.inference_mode(), searching(bundle.model, search):
            result = bundle.model(_network_pixels(image, bundle))
        full.append(float(result.score))
        lower.append(float(found["score"][0]))
        for own, its in zip(mine, _choices(found), strict=True):
            others, cells = others + int((own != its).sum()), cells + own.numel()
    defective = np.arange(len(parts)) >= len(images)
    change = np.array(lower) - np.array(full)
    return Ranking(
        len(parts),
        rank=_spearman(np.array(full), np.array(lower)),
        auroc=image_auroc(defective, np.array(lower)),
        full_auroc=image_auroc(defective, np.array(full)),
        ap=image_ap(defective, np.array(lower)),
        full_ap=image_ap(defective, np.array(full)),
        largest_change=float(np.abs(change).max()),
        mean_change=float(change.mean()),
        other_codes=others / cells,
    )


def painted(bundle: Bundle, images: Sequence[Pixels], seed: int) -> list[Pixels]:
    """The images at the network's size with a defect painted on each: (h, w, 3) uint8."""
    settings = bundle.recipe.image
    generator = torch.Generator().manual_seed(seed)
    shown = []
    for image in images:
        masks = defect_masks(1, settings.height, settings.width, generator, empty=0)
        decoys = decoy_masks(1, settings.height, settings.width, generator) & False
        result = paint(
            bundle.model.discrete, _network_pixels(image, bundle), masks, decoys, generator, ways=Ways(decoy=0)
        )
        shown.append(to_uint8(result.image[0].permute(1, 2, 0).numpy()))
    return shown


def _network_pixels(image: Pixels, bundle: Bundle) -> Tensor:
    return network_input(image.astype(np.float32) / np.float32(255), bundle.recipe.image)[None]


def _choices(found: dict[str, np.ndarray[Any, Any]]) -> list[Tensor]:
    return [torch.from_numpy(found[name].astype(np.int64)) for name in CHOICES]


def _spearman(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)
