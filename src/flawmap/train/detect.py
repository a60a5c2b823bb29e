"""Stage 2: restriction, object-specific decoder and detection learn from feature-level anomalies (DSR §3.4)."""

from __future__ import annotations

from pathlib import Path

import torch

from flawmap.config import Recipe
from flawmap.data.dataset import GoodImages
from flawmap.data.perlin import perlin_masks
from flawmap.model.anomalies import alter
from flawmap.model.dsr import DSR
from flawmap.train.loop import Machine, Stage, seeded, set_rate
from flawmap.train.losses import focal_loss


def train_detection(
    model: DSR, images: GoodImages, recipe: Recipe, machine: Machine, folder: Path, *, resume: bool, quiet: bool
) -> None:
    """Train `model` in place; the discrete model stays as it is. Checkpoint and metrics.jsonl go to `folder`."""
    settings, defects = recipe.detect, recipe.anomalies
    modules = {
        "coarse_restriction": model.coarse_restriction,
        "fine_restriction": model.fine_restriction,
        "object_decoder": model.object_decoder,
        "detection": model.detection,
    }
    model.discrete.requires_grad_(False)
    optimizer = torch.optim.Adam([{"params": module.parameters()} for module in modules.values()], lr=settings.rate)
    generator = seeded(recipe.run.seed, 10)
    stage = Stage(
        "detect", settings.steps, settings.batch, folder=folder, settings=recipe.run, modules=modules,
        optimizer=optimizer, generator=generator, resume=resume, quiet=quiet,
    )  # fmt: skip
    for step in stage:
        set_rate(optimizer, settings.rate * (settings.drop if step >= settings.drop_at * settings.steps else 1.0))
        batch = images.draw(settings.batch, generator, rotate=defects.rotate, crop=settings.crop)
        masks = perlin_masks(
            settings.batch, batch.shape[2], batch.shape[3], generator,
            octaves=defects.perlin_octaves, threshold=defects.perlin_threshold, empty=defects.empty,
        )  # fmt: skip
        batch = batch.to(machine.device, memory_format=torch.channels_last)
        with machine.autocast():
            altered = alter(
                model.discrete, batch, masks.to(machine.device), generator,
                strength=(defects.strength_min, defects.strength_max),
                skip_nearest=defects.skip_nearest, both_grids=defects.both_grids,
            )  # fmt: skip
            restricted = model.restrict(altered.coarse_codes, altered.fine_codes)
            object_image = model.draw_object(restricted.coarse_codes, restricted.fine_codes)
            with torch.no_grad():
                general_image = model.discrete.decode(altered.coarse_codes, altered.fine_codes)
            logits = model.detect(object_image.detach(), general_image)
        losses = {
            "coarse": (restricted.coarse_features.float() - altered.clean_coarse).square().mean(),
            "fine": (restricted.fine_features.float() - altered.clean_fine).square().mean(),
            "image": (object_image.float() - batch).square().mean(),
            "focal": focal_loss(logits, altered.mask),
        }
        loss = (
            settings.restriction_weight * (losses["coarse"] + losses["fine"])
            + settings.image_weight * losses["image"]
            + settings.detection_weight * losses["focal"]
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        stage.report(step, losses)
