"""Stage 1: train the general discrete model on natural images (DSR §3.1; Razavi et al. 2019).

Differs from the source: crops instead of whole images, bfloat16 where the processor has it, dead codes moved onto
features of the batch, a learning rate that rises briefly and then falls to nothing along a cosine. Under torchrun
gradients are averaged and codebook statistics summed over the processes by hand, which is all that this model needs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from flawmap.config import Recipe
from flawmap.data.images import read_image
from flawmap.data.layouts import find_images
from flawmap.data.white import FULL_SCALE, White
from flawmap.errors import BundleError, DataError
from flawmap.given import place_given
from flawmap.model.discrete import DiscreteModel
from flawmap.train.loop import Machine, Stage, adam, initial_weights, learning_rate, seeded, set_rate

CHECK_SIDE = 256  # held-out images are measured on their central 256x256
CACHE_BYTES = 4 << 30  # decoded images kept in memory; what does not fit is decoded again each time


class Crops:
    """Training images, decoded once as far as memory allows, and random crops of them."""

    def __init__(self, paths: Sequence[Path], side: int, white: White = FULL_SCALE) -> None:
        self.paths, self.side, self.white = list(paths), side, white
        self.cache: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}
        self.cached_bytes = 0

    def image(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """(H, W, 3) uint8, at least as large as a crop."""
        if index in self.cache:
            return self.cache[index]
        pixels = at_least(read_image(self.paths[index], self.white), self.side)
        image = (pixels * 255 + 0.5).astype(np.uint8)
        if self.cached_bytes + image.nbytes <= CACHE_BYTES:
            self.cache[index] = image
            self.cached_bytes += image.nbytes
        return image

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 3, side, side) float32 in [0, 1]: random images, places and mirrorings."""
        numbers = torch.rand(count, 4, generator=generator).tolist()
        crops = []
        for which, down, across, mirror in numbers:
            image = self.image(int(which * len(self.paths)))
            top = int(down * (image.shape[0] - self.side + 1))
            left = int(across * (image.shape[1] - self.side + 1))
            crop = image[top : top + self.side, left : left + self.side]
            crops.append(crop[:, ::-1] if mirror < 0.5 else crop)
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div_(255)


def at_least(image: np.ndarray[Any, np.dtype[np.float32]], side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Reflect the borders of an image (H, W, 3) until both sides reach `side`."""
    while min(image.shape[:2]) < side:
        missing = [max(0, min(side - length, length - 1)) for length in image.shape[:2]]
        if any(length < 2 for length in image.shape[:2]):
            return np.pad(image, [(0, max(0, side - length)) for length in image.shape[:2]] + [(0, 0)], mode="edge")
        image = np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="reflect")
    return image


def split(paths: Sequence[Path], held_out: float, seed: int) -> tuple[list[Path], list[Path]]:
    """(training, held-out) images, drawn by `seed` from the paths in order of name."""
    ordered = sorted(paths)
    order = torch.randperm(len(ordered), generator=seeded(seed, 1)).tolist()
    count = max(1, round(held_out * len(ordered)))
    return [ordered[i] for i in sorted(order[count:])], [ordered[i] for i in sorted(order[:count])]


@torch.no_grad()
def quality(
    model: DiscreteModel, paths: Sequence[Path], device: torch.device, white: White = FULL_SCALE
) -> dict[str, float]:
    """How well held-out images survive the codes, on their central 256x256, clipped to [0, 1], in float32.

    `psnr`: dB, mean over the images; `psnr_pooled`: dB of the mean squared error over all of them (lower, since
    hard images weigh more); `coarse_used`, `fine_used`: share of the codes used at least once; `coarse_perplexity`,
    `fine_perplexity`: exp of the entropy of the codes, in codes.
    """
    errors: list[float] = []
    counts = [torch.zeros(book.size) for book in (model.coarse_codebook, model.fine_codebook)]
    for path in paths:
        image = at_least(read_image(path, white), CHECK_SIDE)
        top, left = (image.shape[0] - CHECK_SIDE) // 2, (image.shape[1] - CHECK_SIDE) // 2
        crop = np.ascontiguousarray(image[top : top + CHECK_SIDE, left : left + CHECK_SIDE])
        batch = torch.from_numpy(crop).permute(2, 0, 1).unsqueeze(0).to(device)
        encoding = model.encode(batch)
        drawn = model.decode(encoding.coarse_codes, encoding.fine_codes).clamp(0, 1)
        errors.append(float((drawn - batch).square().mean()))
        for count, indices in zip(counts, (encoding.coarse_indices, encoding.fine_indices), strict=True):
            count += torch.bincount(indices.flatten().cpu(), minlength=len(count))
    result = {
        "psnr": float(np.mean([-10 * math.log10(max(error, 1e-10)) for error in errors])),
        "psnr_pooled": -10 * math.log10(max(float(np.mean(errors)), 1e-10)),
    }
    for name, count in zip(("coarse", "fine"), counts, strict=True):
        share = count[count > 0] / count.sum()
        result[f"{name}_used"] = len(share) / len(count)
        result[f"{name}_perplexity"] = float(torch.exp(-(share * share.log()).sum()))
    return result


def pretrain(
    images: str | PathLike[str] | Sequence[str | PathLike[str]],
    recipe: Recipe,
    folder: str | PathLike[str],
    *,
    resume: bool = False,
    quiet: bool = False,
) -> DiscreteModel:
    """Train a general discrete model on `images`, files or a folder; checkpoint and metrics.jsonl go to `folder`.

    Returns the trained model. With `resume`, goes on from the checkpoint in `folder` to the same weights that an
    uninterrupted run gives. Raises ImageError for a file that is no image, CheckpointError for a damaged checkpoint.
    """
    folder = place_given(folder, "a training's folder", BundleError)
    if isinstance(images, str | PathLike):
        images = find_images([images])
    if not isinstance(images, Iterable):
        raise DataError(f"images are files, or a folder of them, as text or Path, not {type(images).__name__}")
    files = [place_given(image, "an image") for image in images]
    if missing := next((file for file in files if not file.exists()), None):
        raise DataError(f"{missing}: there is no such file")
    if len(files) < 2:
        raise DataError(f"{len(files)} images to train on; it takes two or more, one of them to check with")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BundleError(f"cannot write to {folder}: {problem.strerror}") from problem
    settings, machine = recipe.pretrain, Machine(recipe.run)
    rank, world = _join()
    with initial_weights(recipe.run.seed):
        model = DiscreteModel(
            recipe.model.codes, recipe.model.code_length, recipe.model.discrete_width, recipe.model.discrete_hidden
        )
    model.to(machine.device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    books = {"coarse": model.coarse_codebook, "fine": model.fine_codebook}
    optimizer = adam(model.parameters(), settings.rate, machine.device)
    generator = seeded(recipe.run.seed, 2, rank)
    train_paths, check_paths = split(files, settings.held_out, recipe.run.seed)
    crops = Crops(train_paths, settings.crop, White.of(recipe.image))
    # The codebooks' running statistics are not part of the weights, but they are of the state.
    statistics = {f"{name}.{kind}": getattr(book, kind) for name, book in books.items() for kind in ("counts", "sums")}
    stage = Stage(
        "pretrain", settings.steps, settings.batch * world, folder=folder, settings=recipe.run,
        modules={"model": model}, optimizer=optimizer, generator=generator, extra=statistics,
        resume=resume, quiet=quiet, rank=rank,
    )  # fmt: skip
    revived = 0
    for step in stage:
        set_rate(optimizer, learning_rate(step, settings.steps, settings.warmup, settings.rate))
        batch = crops.draw(settings.batch, generator).to(machine.device, memory_format=torch.channels_last)
        quantized = step >= settings.continuous
        with machine.autocast():
            if step == settings.continuous:  # codes start as features, or most would never be near one
                model.start_codebooks(batch, generator)
            encoding = model.encode(batch) if quantized else model.encode_continuous(batch)
            drawn = model.decode(encoding.coarse_codes, encoding.fine_codes)
        losses = {"image": (drawn.float() - batch).square().mean()}
        features = {"coarse": encoding.coarse_features.float(), "fine": encoding.fine_features.float()}
        losses["coarse"] = (features["coarse"] - encoding.coarse_codes.detach()).square().mean()
        losses["fine"] = (features["fine"] - encoding.fine_codes.detach()).square().mean()
        loss = settings.image_weight * losses["image"] + settings.commitment * (losses["coarse"] + losses["fine"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if world > 1:
            _average_gradients(model, world)
        optimizer.step()
        indices = {"coarse": encoding.coarse_indices, "fine": encoding.fine_indices}
        if quantized:
            for name, book in books.items():
                book.learn(features[name].detach(), indices[name], settings.decay)
        look = settings.revive_every and step % settings.revive_every == 0
        if look and settings.continuous < step < settings.revive_until * settings.steps:
            revived += sum(book.revive(features[name].detach(), generator) for name, book in books.items())
        stage.report(step, losses)
        finished = step + 1
        if rank == 0 and (finished % settings.check_every == 0 or finished == settings.steps):
            stage.write(
                finished, revived=revived, **quality(model, check_paths, machine.device, White.of(recipe.image))
            )
            revived = 0
    model.normalise_codes()
    return model.eval()


def _average_gradients(model: DiscreteModel, world: int) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(world)


def _join() -> tuple[int, int]:
    """(rank, number of processes); joins the group when started by torchrun."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
