"""Stage 2: restriction, object-specific decoder and detection learn from training defects (DSR §3.4).

The defects are the paper's, made in the codes, or painted onto the image (`model.painting`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from flawmap.config import AnomalySettings, DetectSettings, FewSettings, Recipe
from flawmap.data.perlin import perlin_masks
from flawmap.data.real import MILD, Real, RealDefects
from flawmap.data.shapes import decoy_masks, defect_masks, streaked
from flawmap.model.anomalies import RankTables, alter, rank_tables
from flawmap.model.dsr import DSR, detection_channels
from flawmap.model.painting import Ways, paint
from flawmap.train.loop import Machine, Stage, adam, learning_rate, seeded, set_rate
from flawmap.train.losses import extremes_loss, focal_loss, highest_loss
from flawmap.train.refine import smudge
from flawmap.train.replay import Replay

DRAWING_GROUPS = slice(0, 3)  # of the optimizer: restriction of both grids, object decoder; detection is the last


class Images(Protocol):
    """Where good images come from: `draw` gives (count, 3, H, W) float32 in [0, 1], BGR."""

    def draw(
        self, count: int, generator: torch.Generator, *, rotate: float, degrees: float, border: str, crop: int
    ) -> Tensor:
        """`count` good images, augmented; all randomness comes from `generator`."""
        ...


class Sample(NamedTuple):
    """A batch with defects: the image (B, 3, H, W) and codes of both grids as the networks see them, the codes of the
    good image, which restriction should give back, the mask (B, H, W) bool of the defects, and pixels that are neither
    good nor defective (B, H, W) bool."""

    image: Tensor
    coarse_codes: Tensor
    fine_codes: Tensor
    clean_coarse: Tensor
    clean_fine: Tensor
    mask: Tensor
    unsure: Tensor


def train_detection(
    model: DSR,
    images: Images,
    recipe: Recipe,
    machine: Machine,
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
    name: str = "detect",
    real: RealDefects | None = None,
    variation: FewSettings = MILD,
) -> None:
    """Train `model` in place; the discrete model stays as it is. Checkpoint and metrics.jsonl go to `folder`.

    `real`: defective photos that detection learns from too, varied as `variation` says.
    """
    settings, defects = recipe.detect, recipe.anomalies
    modules = {
        "coarse_restriction": model.coarse_restriction,
        "fine_restriction": model.fine_restriction,
        "object_decoder": model.object_decoder,
        "detection": model.detection,
    }
    drawing = [module for name, module in modules.items() if name != "detection"]
    settled_at = settings.settle * settings.steps
    model.discrete.requires_grad_(False)
    optimizer = adam([{"params": module.parameters()} for module in modules.values()], settings.rate, machine.device)
    generator = seeded(recipe.run.seed, 10)
    tables = rank_tables(model.discrete) if defects.ranks == "table" else None
    replay = replay_for(model, recipe, machine.device)
    stage = Stage(
        name, settings.steps, settings.batch, folder=folder, settings=recipe.run, modules=modules, optimizer=optimizer,
        generator=generator, pool=replay, resume=resume, quiet=quiet,
    )  # fmt: skip
    for step in stage:
        set_rate(optimizer, rate_at(step, settings, settings.steps))
        set_rate(optimizer, settings.drawing_rate * rate_at(step, settings, math.ceil(settled_at)), DRAWING_GROUPS)
        settled = step >= settled_at
        for module in drawing:
            module.train(not settled)
        batch = drawn(images, settings.batch, recipe, generator).to(memory_format=torch.channels_last)
        with machine.autocast():
            sample = with_defects(model, batch, defects, generator, machine.device, tables)
            batch = batch.to(machine.device)
            with torch.set_grad_enabled(not settled):
                restricted = model.restrict(sample.coarse_codes, sample.fine_codes)
                object_image = model.draw_object(restricted.coarse_codes, restricted.fine_codes)
            with torch.no_grad():
                general_image = model.discrete.decode(sample.coarse_codes, sample.fine_codes)
            seen = model.compared(object_image.detach(), general_image, sample.image)
            logits = model.judge(seen, sample.mask.shape[-2:])
        losses = {
            "coarse": (restricted.coarse_features.float() - sample.clean_coarse).square().mean(),
            "fine": (restricted.fine_features.float() - sample.clean_fine).square().mean(),
            "image": (object_image.float() - batch).square().mean(),
            **detection_losses(logits, sample.mask, sample.unsure, settings),
        }
        loss = detection_loss(losses, settings)
        if not settled:
            loss = (
                settings.restriction_weight * (losses["coarse"] + losses["fine"])
                + settings.image_weight * losses["image"]
                + loss
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if replay:
            replay.put(step, seen, sample.mask, sample.unsure)
        if real:
            seen_real = real.draw(
                recipe.real, lambda count: drawn(images, count, recipe, generator), generator,
                crop=settings.crop, variation=variation,
            )  # fmt: skip
            with machine.autocast():
                logits = judge_real(model, seen_real.images.to(machine.device))
            found = real_loss(logits, seen_real, recipe)
            optimizer.zero_grad(set_to_none=True)
            found.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses["real"] = found
        for _ in range(1, settings.views - (1 if real else 0)):
            pictures, mask, unsure = replay.draw(step, generator) if replay else (seen, sample.mask, sample.unsure)
            turn = turned(generator, settings.replay_turns)
            with machine.autocast():
                logits = model.judge(turned_pictures(pictures, turn, model), turn(mask).shape[-2:])
            again = detection_loss(detection_losses(logits, turn(mask), turn(unsure), settings), settings)
            optimizer.zero_grad(set_to_none=True)  # the others have no gradient, and stay as they are
            again.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        stage.report(step, losses)


def drawn(images: Images, count: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """`count` good images (count, 3, H, W), augmented as the recipe says."""
    defects = recipe.anomalies
    return images.draw(
        count, generator, rotate=defects.rotate, degrees=defects.rotate_degrees,
        border="zeros" if defects.rotate_border == "black" else "reflection", crop=recipe.detect.crop,
    )  # fmt: skip


def judge_real(model: DSR, images: Tensor) -> Tensor:
    """Logits (B, 2, H, W) of real images (B, 3, H, W), drawn as when inspecting; only detection has a gradient."""
    drawing = [model.coarse_restriction, model.fine_restriction, model.object_decoder]
    modes = [module.training for module in drawing]
    with torch.no_grad():
        for module in drawing:
            module.eval()
        codes = model.encode(images)
        restricted = model.restrict(codes.coarse_codes, codes.fine_codes)
        object_image = model.draw_object(restricted.coarse_codes, restricted.fine_codes)
        general_image = model.discrete.decode(codes.coarse_codes, codes.fine_codes)
        seen = model.compared(object_image, general_image, images)
        for module, mode in zip(drawing, modes, strict=True):
            module.train(mode)
    return model.judge(seen, images.shape[-2:])


def real_loss(logits: Tensor, real: Real, recipe: Recipe) -> Tensor:
    """What detection learns from real defects: by their masks, or, without one, by the most suspicious pixels."""
    masked, ignored = real.masked.to(logits.device), ~real.counts.to(logits.device)
    loss = logits.new_zeros((), dtype=torch.float32)
    if masked.any():
        mask = real.masks.to(logits.device)[masked]
        losses = detection_losses(logits[masked], mask & ~ignored[masked], ignored[masked], recipe.detect)
        loss = loss + detection_loss(losses, recipe.detect) * masked.float().mean()
    if not masked.all():
        loss = loss + highest_loss(logits[~masked], recipe.real.highest, ignored[~masked]) * (~masked).float().mean()
    return recipe.real.weight * loss


def detection_losses(logits: Tensor, mask: Tensor, unsure: Tensor, settings: DetectSettings) -> dict[str, Tensor]:
    """What detection learns from: logits (B, 2, H, W), mask and unsure (B, H, W) bool."""
    losses = {"focal": focal_loss(logits, mask, unsure=unsure)}
    if settings.extremes_weight > 0:
        losses["extremes"] = extremes_loss(logits, mask, unsure=unsure)
    return losses


def detection_loss(losses: Mapping[str, Tensor], settings: DetectSettings) -> Tensor:
    """The weighted sum of `detection_losses`."""
    loss = settings.detection_weight * losses["focal"]
    return loss + settings.extremes_weight * losses["extremes"] if "extremes" in losses else loss


def replay_for(model: DSR, recipe: Recipe, device: torch.device) -> Replay | None:
    """Room for the batches that `detect.replay` keeps, if any is used."""
    settings = recipe.detect
    if not settings.replay or settings.views == 1:
        return None
    height, width = (min(settings.crop or side, side) for side in (recipe.image.height, recipe.image.width))
    scale = model.detection_scale
    channels = detection_channels(model.sees_image, scale, model.fold)
    pictures = settings.batch, channels, height // scale, width // scale
    return Replay(min(settings.replay, settings.steps), pictures, (settings.batch, height, width), device)


def turned(generator: torch.Generator, turns: str = "quarter") -> Callable[[Tensor], Tensor]:
    """A random mirroring of the last two axes, which `quarter` also swaps where they are alike; none for `none`."""
    across, down, swap = (torch.rand(3, generator=generator) < 0.5).tolist()
    if turns == "none":
        return lambda x: x
    axes = [axis for axis, wanted in ((-1, across), (-2, down)) if wanted]

    def turn(x: Tensor) -> Tensor:
        x = x.flip(axes) if axes else x
        return x.transpose(-1, -2) if swap and turns == "quarter" and x.shape[-1] == x.shape[-2] else x

    return turn


def turned_pictures(pictures: Tensor, turn: Callable[[Tensor], Tensor], model: DSR) -> Tensor:
    """`turn` for what detection sees, whose image may be folded into channels."""
    if not model.fold:
        return turn(pictures)
    shuffle, unshuffle, scale = nn.functional.pixel_shuffle, nn.functional.pixel_unshuffle, model.detection_scale
    return torch.cat([turn(pictures[:, :6]), unshuffle(turn(shuffle(pictures[:, 6:], scale)), scale)], dim=1)


def rate_at(step: int, settings: DetectSettings, last: int) -> float:
    """Adam's learning rate for `step`, counted from 0; the cosine schedule ends at step `last`."""
    if settings.schedule == "cosine":
        return learning_rate(min(step, last), last, settings.warmup, settings.rate)
    return settings.rate * (settings.drop if step >= settings.drop_at * settings.steps else 1.0)


def with_defects(
    model: DSR,
    batch: Tensor,
    settings: AnomalySettings,
    generator: torch.Generator,
    device: torch.device,
    tables: RankTables | None = None,
) -> Sample:
    """Good images (B, 3, H, W) on the CPU with training defects in a part of them, on `device`."""
    count, _, height, width = batch.shape
    strength = (settings.strength_min, settings.strength_max)
    octaves, threshold, empty = settings.perlin_octaves, settings.perlin_threshold, settings.empty
    if settings.place != "image":
        masks = perlin_masks(count, height, width, generator, octaves=octaves, threshold=threshold, empty=empty)
    if settings.place == "smudges":
        return _smudged(model, batch, masks, settings, generator, device)
    if settings.place == "codes":
        batch = batch.to(device)
        altered = alter(
            model.discrete, batch, masks.to(device), generator,
            strength=strength, skip_nearest=settings.skip_nearest, both_grids=settings.both_grids, tables=tables,
            grids=settings.grids, quantize=model.quantizes,
        )  # fmt: skip
        return Sample(batch, *altered, torch.zeros_like(altered.mask))
    opacity = defect_masks(
        count, height, width, generator,
        octaves=octaves, threshold=threshold, empty=empty,
        lines=settings.lines, blobs=settings.blobs, regions=settings.regions, cracks=settings.cracks,
        without=streaked(batch) if settings.cracks else None,
    )  # fmt: skip
    decoys = decoy_masks(count, height, width, generator)
    painted = paint(
        model.discrete, batch.to(device), opacity.to(device), decoys.to(device), generator,
        ways=Ways(
            settings.shift, settings.blend, settings.decoy,
            (settings.opacity_min, settings.opacity_max), settings.visible, settings.transplant,
            (settings.contrast_min, settings.contrast_max) if settings.contrast_max else None,
            own_pixels=settings.faint == "ignored", grids=settings.grids, deform=settings.deform,
        ),
        strength=strength,
        skip_nearest=settings.skip_nearest, tables=tables,
    )  # fmt: skip
    with torch.no_grad():
        seen = model.encode(painted.image)
    clean = painted.clean
    if not model.quantizes:
        with torch.no_grad():
            clean = model.encode(batch.to(device))
    unsure = painted.unsure if settings.faint == "ignored" else torch.zeros_like(painted.mask)
    return Sample(
        painted.image, seen.coarse_codes, seen.fine_codes, clean.coarse_codes, clean.fine_codes, painted.mask, unsure
    )


@torch.no_grad()
def _smudged(
    model: DSR,
    batch: Tensor,
    masks: Tensor,
    settings: AnomalySettings,
    generator: torch.Generator,
    device: torch.device,
) -> Sample:
    """Image-level defects (an ablation): one colour an image laid under the masks (B, H, W), as stage 3 makes them."""
    image = smudge(batch, masks, generator, max(1 - settings.opacity_min, 0.0)).to(device)
    clean, seen = model.encode(batch.to(device)), model.encode(image)
    masks = masks.to(device)
    return Sample(
        image, seen.coarse_codes, seen.fine_codes, clean.coarse_codes, clean.fine_codes, masks, torch.zeros_like(masks)
    )
