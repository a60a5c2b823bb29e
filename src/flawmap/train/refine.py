"""Stage 3: the upsampling module learns full-size maps from image-level smudges (DSR §3.5); all else is frozen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from flawmap.config import Recipe
from flawmap.data.dataset import GoodImages
from flawmap.data.large import GoodTiles
from flawmap.data.perlin import perlin_masks
from flawmap.model.dsr import DSR
from flawmap.train.loop import Machine, Stage, adam, seeded, set_rate
from flawmap.train.losses import focal_loss


def smudge(images: Tensor, masks: Tensor, generator: torch.Generator, transparency_max: float) -> Tensor:
    """Blend one random colour an image into (B, 3, H, W) under `masks` (B, H, W) bool, with weight 1 - U(0, max)."""
    draws = torch.rand(len(images), 4, generator=generator).to(images.device)
    colours, weights = draws[:, :3, None, None], 1 - draws[:, 3, None, None, None] * transparency_max
    return torch.where(masks.unsqueeze(1), torch.lerp(images, colours.expand_as(images), weights), images)


def train_refinement(
    model: DSR,
    images: GoodImages | GoodTiles,
    recipe: Recipe,
    machine: Machine,
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
) -> None:
    """Train `model.refinement` in place. Checkpoint and metrics.jsonl go to `folder`."""
    settings, defects = recipe.refine, recipe.anomalies
    assert model.refinement is not None
    optimizer = adam(model.refinement.parameters(), settings.rate, machine.device)
    generator = seeded(recipe.run.seed, 20)
    stage = Stage(
        "refine", settings.steps, settings.batch, folder=folder, settings=recipe.run,
        modules={"refinement": model.refinement}, optimizer=optimizer, generator=generator, resume=resume, quiet=quiet,
    )  # fmt: skip
    for step in stage:
        set_rate(optimizer, settings.rate)
        batch = images.draw(settings.batch, generator, rotate=settings.rotate, crop=settings.crop)
        masks = perlin_masks(
            settings.batch, batch.shape[2], batch.shape[3], generator,
            octaves=defects.perlin_octaves, threshold=defects.perlin_threshold, empty=settings.empty,
        )  # fmt: skip
        smudged = smudge(batch, masks, generator, settings.transparency_max)
        smudged = smudged.to(machine.device, memory_format=torch.channels_last)
        with machine.autocast():
            with torch.no_grad():
                encoding = model.encode(smudged)
                restricted = model.restrict(encoding.coarse_codes, encoding.fine_codes)
                object_image = model.draw_object(restricted.coarse_codes, restricted.fine_codes)
                general_image = (
                    smudged
                    if model.against_image
                    else model.discrete.decode(encoding.coarse_codes, encoding.fine_codes)
                )
                first_map = torch.softmax(model.detect(object_image, general_image, smudged).float(), dim=1)
            logits = model.refine(object_image, general_image, first_map)
        loss = focal_loss(logits, masks.to(machine.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        stage.report(step, {"focal": loss})
