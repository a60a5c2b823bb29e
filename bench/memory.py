"""How much a memory of good patches owes to near-duplicates of the test photos among the training photos.

    python bench/memory.py --data DIR [--write]

For data sets whose file names number the photos as they were taken (Magnetic Tile). Features are energies of a bank of
band-pass filters, untrained; a photo's score is its largest distance to the nearest patches of good training photos,
with and without the photos whose number is near its own, beside the distance from a Gaussian of the same features.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import write_result
from flawmap.config import load_recipe
from flawmap.data.dataset import GoodImages
from flawmap.data.layouts import read_layout
from flawmap.measure.metrics import image_auroc
from flawmap.model.familiarity import Moments, levelled, within_border
from flawmap.train.run import hold_out
from flawmap.train.sources import shaped

PATCHES = 60  # kept of each good photo
PHOTOS = 350  # good photos, about
NEAREST = 3
APART = (0, 50, 200, 1000, 5000)  # numbers within which good photos are left out
RIDGE = 1e-3


def filters() -> Tensor:
    """Gabor pairs (12, 1, 9, 9) of six orientations, of mean 0 and length 1."""
    rows, columns = torch.meshgrid(torch.arange(-4, 5.0), torch.arange(-4, 5.0), indexing="ij")
    window = torch.exp(-(rows**2 + columns**2) / (2 * 1.5**2))
    kernels = []
    for turn in range(6):
        along = columns * math.cos(turn * math.pi / 6) + rows * math.sin(turn * math.pi / 6)
        for phase in (0.0, math.pi / 2):
            kernel = window * torch.cos(math.pi / 2 * along + phase)
            kernel = kernel - window * (kernel.sum() / window.sum())
            kernels.append(kernel / kernel.norm())
    return torch.stack(kernels)[:, None]


def energies(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Logarithms of energies in four octaves, and of how they vary (B, 96, H/8, W/8), each a mean over 40 pixels."""

    def envelope(x: Tensor) -> Tensor:
        found = nn.functional.conv2d(nn.functional.pad(x, (4, 4, 4, 4), mode="reflect"), kernels)
        return (found[:, 0::2].square() + found[:, 1::2].square() + 1e-6).sqrt()

    def smooth(x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)

    grey = levelled(pictures).mean(1, keepdim=True)
    size, found = (grey.shape[-2] // 8, grey.shape[-1] // 8), []
    for octave in range(4):
        grey = nn.functional.avg_pool2d(grey, 2) if octave else grey
        first = envelope(grey)
        found.append(nn.functional.adaptive_avg_pool2d(smooth(first), size))
        if octave < 2:
            second = envelope(nn.functional.avg_pool2d(first, 2).flatten(0, 1)[:, None])
            found.append(nn.functional.adaptive_avg_pool2d(smooth(second), size).reshape(len(grey), -1, *size))
    return smooth(torch.log(torch.cat(found, 1) + 1e-3))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="write bench/results/memory.json")
    chosen = parser.parse_args()
    recipe, listing = load_recipe("fast"), read_layout(chosen.data)
    good = sorted(sample.image for sample in listing.train_good)
    paths, _ = hold_out(good, recipe.threshold, 0)
    paths = paths[:: max(1, round(len(paths) / PHOTOS))]
    settings = shaped(recipe.image, good)
    train, test = GoodImages(paths, settings), GoodImages([sample.image for sample in listing.test], settings)
    defective = np.array([bool(sample.defective) for sample in listing.test])

    def number(path: Path) -> int:
        return int(re.findall(r"\d+", path.stem)[-1])

    kernels, generator = filters(), torch.Generator().manual_seed(0)
    moments, patches = Moments(96), []
    for index in range(len(train)):
        features = within_border(energies(train.get([index]), kernels))
        moments.add(features)
        cells = features[0].flatten(1).t()
        patches.append(cells[torch.randperm(len(cells), generator=generator)[:PATCHES]])
    covariance = moments.covariance()
    factor = torch.linalg.cholesky(covariance + RIDGE * covariance.diagonal().mean() * torch.eye(96).double())
    whitening = torch.linalg.solve_triangular(factor, torch.eye(96).double(), upper=False).t().float()
    mean = moments.mean().float()
    bank = (torch.cat(patches) - mean) @ whitening
    numbers = torch.tensor([number(path) for path in paths]).repeat_interleave(PATCHES)
    lengths = bank.square().sum(1)
    scores: dict[str, list[float]] = {"gaussian": [], **{str(apart): [] for apart in APART}}
    nearest = []
    for index, path in enumerate(test.paths):
        features = within_border(energies(test.get([index]), kernels))
        size = features.shape[-2:]
        cells = (features[0].flatten(1).t() - mean) @ whitening
        distances = cells.square().sum(1)[:, None] - 2 * cells @ bank.t() + lengths

        def largest(values: Tensor, size: torch.Size = size) -> float:
            return float(nn.functional.avg_pool2d(values.view(1, 1, *size), 3, 1).max())

        scores["gaussian"].append(largest(cells.square().mean(1).log()))
        away = (numbers - number(path)).abs()
        nearest.append(int(away.min()))
        for apart in APART:
            kept = distances.masked_fill((away <= apart)[None], 1e9) if apart else distances
            near = kept.topk(NEAREST, largest=False).values.mean(1).clamp_min(1e-6).sqrt()
            scores[str(apart)].append(largest(near))
    found = {name: image_auroc(defective, np.array(values)) for name, values in scores.items()}
    away_of = {
        word: float(np.median([away for away, bad in zip(nearest, defective, strict=True) if bad == kind]))
        for word, kind in (("good", False), ("defective", True))
    }
    print(f"{len(train)} good photos, {len(bank)} patches, {len(test)} test photos")
    print(f"numbers between a test photo and the nearest good training photo, median: {away_of}")
    for name, value in found.items():
        print(f"{name if name == 'gaussian' else f'without those within {name}':<26}{value:.3f}")
    if chosen.write:
        values = {"data": listing.name, "image_auroc": found, "numbers_away": away_of, "photos": len(train)}
        print(f"wrote {write_result('memory', 'memory', values, 'cpu')}")


if __name__ == "__main__":
    main()
