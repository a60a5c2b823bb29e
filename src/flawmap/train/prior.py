"""The general prior: restriction, object decoder and detection trained once on natural images (beyond DSR).

Most of DSR is not about the object: the detector compares two drawings, and the object decoder starts well as the
general one. Each natural image stands for an object of its own. A training for a real object then starts from these
weights and only moves what the object needs.

Axes: B images, H, W rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flawmap.bundle import build
from flawmap.config import Recipe
from flawmap.data.white import FULL_SCALE, White
from flawmap.model.discrete import DiscreteModel
from flawmap.model.dsr import DSR
from flawmap.train.detect import train_detection
from flawmap.train.loop import Machine, initial_weights
from flawmap.train.pretrain import Crops, split
from flawmap.train.run import start_weights

GREY, ZOOM, TONE = 0.5, 0.6, 0.7  # shares of the crops made grey, enlarged, changed in tone
LARGEST_ZOOM = 3.0


class NaturalImages:
    """Random crops of natural images, many of them made to resemble industrial photos: grey, enlarged, of other tone.

    Parts are often grey and smooth; photos seldom are.
    """

    def __init__(self, paths: Sequence[Path], side: int, white: White = FULL_SCALE) -> None:
        self.crops = Crops(paths, side, white)

    def draw(
        self, count: int, generator: torch.Generator, *, rotate: float, degrees: float, border: str, crop: int
    ) -> Tensor:
        """(count, 3, side, side) float32 in [0, 1]. `rotate`, `degrees`, `border` and `crop` do not matter here."""
        return varied(self.crops.draw(count, generator), generator)


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W) in [0, 1], some made grey, some enlarged about a random place, some of other tone."""
    draws = torch.rand(len(images), 8, generator=generator)
    grey = (draws[:, 0] < GREY)[:, None, None, None]
    images = torch.where(grey, images.mean(1, keepdim=True), images)
    zoom = torch.where(draws[:, 1] < ZOOM, LARGEST_ZOOM ** draws[:, 2], torch.ones(()))
    angle = torch.where(draws[:, 1] < ZOOM, draws[:, 7] * 2 * math.pi, torch.zeros(()))
    # An enlarged image's window lies within the image: its centre within +-(1 - 1 / zoom), as grid_sample counts.
    room = 1 - 1 / zoom
    rows = [
        torch.stack([angle.cos() / zoom, -angle.sin() / zoom, (2 * draws[:, 3] - 1) * room], 1),
        torch.stack([angle.sin() / zoom, angle.cos() / zoom, (2 * draws[:, 4] - 1) * room], 1),
    ]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    images = torch.nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gamma = torch.where(draws[:, 5] < TONE, 2 ** (2 * draws[:, 6] - 1), torch.ones(()))[:, None, None, None]
    contrast = torch.where(draws[:, 5] < TONE, 0.4 + 0.6 * draws[:, 5] / TONE, torch.ones(()))[:, None, None, None]
    images = images.clamp(0, 1) ** gamma
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return middle + (images - middle) * contrast


def train_prior(
    images: Sequence[Path],
    recipe: Recipe,
    discrete: DiscreteModel,
    folder: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> DSR:
    """Train restriction, object decoder and detection on `images` with the frozen `discrete` model.

    With `model.prior` set the training starts from that prior, discrete model included. Checkpoint and metrics.jsonl go
    to `folder`; with `resume`, goes on from there to the weights of an uninterrupted run. Returns the DSR without
    refinement. Raises ImageError for a file that is no image, CheckpointError, ConfigError for a prior of other sizes.
    """  # fmt: skip
    machine = Machine(recipe.run)
    recipe = recipe.model_copy(update={"detect": recipe.detect.model_copy(update={"crop": 0})})  # crops anyway
    with initial_weights(recipe.run.seed):
        model = build(recipe.model, with_refinement=False)
    start_weights(model, recipe.model, None if recipe.model.prior else discrete)
    model.to(machine.device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    train_paths, _ = split(images, recipe.pretrain.held_out, recipe.run.seed)
    source = NaturalImages(train_paths, recipe.image.height, White.of(recipe.image))
    train_detection(model, source, recipe, machine, folder, resume=resume, quiet=quiet, name="prior")
    return model.eval().requires_grad_(False)
