"""Time of a step of stage 2: the transcription of the published program against flawmap's own training.

    python bench/train_step.py [--recipes paper,fast] [--side 256] [--blocks 3] [--device cpu] [--write]
    python bench/train_step.py --curves 40 [--write]

flawmap's steps are timed inside `train_detection` itself, from one draw of images to the next. Each block starts anew
and its first step is thrown away. Blocks are interleaved. Both are given the same images and Perlin masks, which are
flawmap's in both cases and left out of the transcription's time.

--curves: losses of both over so many steps from the same weights, images and masks. "given": the transcription is also
given flawmap's defects, and differs by rounding alone. "drawn": it draws its own, by its own program; the difference is
set beside that of a second seed of flawmap's.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from common import Times, cores, write_result
from contenders import random_bundle
from flawmap.config import Recipe, load_recipe
from flawmap.data.dataset import GoodImages
from flawmap.data.perlin import perlin_masks
from flawmap.data.surfaces import draw_good
from flawmap.model.dsr import DSR
from flawmap.train import detect
from flawmap.train.loop import Machine, Stage, seeded
from transcription import Defects, TrainingStep, Transcription

BATCH = 8  # images a step, as in the paper
DRAWN = 16  # good images, drawn
SURFACE = "cast-grain"


class Images:
    """Drawn parts behind the calls of GoodImages; notes when each batch is asked for."""

    def __init__(self, height: int, width: int) -> None:
        random = np.random.default_rng(0)
        side = max(height, width)
        pictures = [draw_good(SURFACE, side, random)[:height, :width] for _ in range(DRAWN)]
        self.source = GoodImages([], load_recipe("paper").image)
        self.source.paths = [Path(f"drawn{index}") for index in range(DRAWN)]
        self.source.cache = [(picture * 65535 + 0.5).astype(np.uint16) for picture in pictures]
        self.asked: list[float] = []
        self.batches: list[Tensor] = []
        self.keep = False

    def draw(self, *positional: Any, **named: Any) -> Tensor:
        """As GoodImages.draw."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.asked.append(time.perf_counter())
        batch = self.source.draw(*positional, **named)
        if self.keep:
            self.batches.append(batch)
        return batch


def settled(recipe: str, steps: int, device: str, seed: int, precision: str = "", batch: int = BATCH) -> Recipe:
    """A recipe for a few steps, without checkpoints."""
    found = load_recipe(recipe)
    run = {"device": device, "seed": seed, "checkpoint_seconds": 1e9}
    if precision:
        run["precision"] = precision
    return found.model_copy(
        update={
            "detect": found.detect.model_copy(update={"steps": steps, "batch": batch}),
            "run": found.run.model_copy(update=run),
        }
    )


def own_steps(model: DSR, recipe: Recipe, images: Images) -> list[float]:
    """Seconds of each step but the first of one call of flawmap's training."""
    images.asked.clear()
    machine = Machine(recipe.run)
    with tempfile.TemporaryDirectory() as folder:
        detect.train_detection(model, images, recipe, machine, Path(folder), resume=False, quiet=True)
    return [later - earlier for earlier, later in pairwise(images.asked[1:])]


def transcribed_steps(step: TrainingStep, images: Images, count: int, device: str) -> list[float]:
    """The same of the transcription, `count` steps after one that is thrown away."""
    found = []
    for _ in range(count + 1):
        image, mask = batch_of(images, step.generator)
        image, mask = image.to(device), mask.to(device)
        started = time.perf_counter()
        step.step(image, mask)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return found[1:]


def batch_of(images: Images, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """BATCH good images, 40 % rotated, and Perlin masks, half of them empty."""
    image = images.draw(BATCH, generator, rotate=0.4)
    return image, perlin_masks(BATCH, *image.shape[-2:], generator)


def measure(recipes: list[str], side: int, blocks: int, steps: int, device: str) -> list[dict[str, Any]]:
    """A row for the transcription and for each recipe, and for `paper` in bfloat16 where the machine has it."""
    images = Images(side, side)
    torch.set_num_threads(cores())
    calls: dict[str, Callable[[], list[float]]] = {}
    published = Transcription(with_refinement=False)
    source = random_bundle("paper").model.state_dict()
    published.load_state_dict({name: value for name, value in source.items() if not name.startswith("refinement.")})
    step = TrainingStep(published.to(device), seeded(0, 1))
    calls["transcription"] = lambda: transcribed_steps(step, images, steps, device)
    for name in recipes:
        choices = ["float32", "bfloat16"] if name == "paper" else ["auto"]
        for precision in choices:
            recipe = settled(name, steps + 2, device, 0, precision)
            machine = Machine(recipe.run)
            if precision == "bfloat16" and not Machine(settled(name, 1, device, 0, "auto").run).bfloat16:
                continue
            model = trainable(name, machine.device)
            shown = f"{name} {precision}" if precision != "auto" else f"{name} {'bf16' if machine.bfloat16 else 'fp32'}"
            calls[shown] = lambda model=model, recipe=recipe: own_steps(model, recipe, images)
    turns: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(blocks):
        for name, call in calls.items():
            turns[name].append(median(call()))
    base = median(turns["transcription"])
    return [
        {"name": name, **Times(median(found), min(found), max(found))._asdict(), "ratio": base / median(found),
         "images": BATCH}
        for name, found in turns.items()
    ]  # fmt: skip


def trainable(recipe: str, device: torch.device) -> DSR:
    """A model of a recipe's sizes as `flawmap train` hands it to the stage."""
    model = random_bundle(recipe).model.requires_grad_(True)
    model.to(device, torch.float32, memory_format=torch.channels_last)
    return model.train()


@contextmanager
def recorded(losses: list[dict[str, float]], samples: list[Defects]) -> Iterator[None]:
    """Within, every step of flawmap's training leaves its losses and its defects behind."""
    original = detect.with_defects

    def report(self: Stage, step: int, values: dict[str, Tensor], every: int = 20) -> None:
        losses.append({name: float(value.detach()) for name, value in values.items()})

    def with_defects(*positional: Any, **named: Any) -> Any:
        found = original(*positional, **named)
        samples.append(Defects(*found[1:6]))  # without what is neither good nor defective: nothing, in the paper
        return found

    with mock.patch.object(Stage, "report", report), mock.patch.object(detect, "with_defects", with_defects):
        yield


def curves(steps: int, side: int, device: str, batch: int = BATCH) -> dict[str, Any]:
    """Losses by step of flawmap (two seeds) and of the transcription, from the same weights."""
    start = random_bundle("paper").model.state_dict()
    images = Images(side, side)
    images.keep = True
    found: dict[str, list[dict[str, float]]] = {}
    samples: list[Defects] = []
    batches: list[Tensor] = []
    for seed in (0, 1):
        model = trainable("paper", torch.device(device))
        model.load_state_dict(copy.deepcopy(start))
        losses: list[dict[str, float]] = []
        taken: list[Defects] = []
        images.batches.clear()
        with recorded(losses, taken):
            own_steps(model, settled("paper", steps, device, seed, batch=batch), images)
        found[f"flawmap, seed {seed}"] = losses
        if seed == 0:
            samples, batches = taken, list(images.batches)
    images.keep = False
    for way in ("given", "drawn"):
        model = Transcription(with_refinement=False)
        model.load_state_dict({name: value for name, value in start.items() if not name.startswith("refinement.")})
        step = TrainingStep(model.to(device), seeded(0, 2))
        losses = []
        for image, sample in zip(batches, samples, strict=True):
            if way == "given":
                losses.append(step.step(image.to(device), sample.mask, sample))
            else:
                mask = perlin_masks(len(image), *image.shape[-2:], step.generator)
                losses.append(step.step(image.to(device), mask.to(device)))
        found[f"transcription, defects {way}"] = losses
    return {"curves": found, **compared(found)}


def compared(found: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Mean relative differences of the summed losses: rounding, program against program, seed against seed."""

    def total(name: str) -> np.ndarray[Any, Any]:
        weights = {"coarse": 1, "fine": 1, "image": 10, "focal": 1}
        return np.array([sum(weights[part] * value for part, value in step.items()) for step in found[name]])

    def smooth(values: np.ndarray[Any, Any]) -> float:
        half = len(values) // 2  # of the later half, where the weights have moved
        return float(values[half:].mean())

    own, other = total("flawmap, seed 0"), total("flawmap, seed 1")
    given, drawn = total("transcription, defects given"), total("transcription, defects drawn")
    return {
        "rounding": float(np.abs(given / own - 1).max()),
        "first_step": float(abs(given[0] / own[0] - 1)),
        "program": abs(smooth(drawn) / smooth(own) - 1),
        "seed": abs(smooth(other) / smooth(own) - 1),
        "step_to_step": float(np.std(np.diff(own)) / fmean(own)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="paper,fast")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps a block")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--curves", type=int, default=0, metavar="STEPS", help="compare losses instead of times")
    parser.add_argument("--write", action="store_true", help="write bench/results/train*.json")
    chosen = parser.parse_args()
    where = "gpu" if chosen.device.startswith("cuda") else "cpu"
    values: dict[str, Any] = {"side": chosen.side, "device": where}
    if chosen.curves:
        torch.set_num_threads(cores())
        values |= curves(chosen.curves, chosen.side, chosen.device)
        for name in ("first_step", "rounding", "program", "seed", "step_to_step"):
            print(f"{name.replace('_', ' '):<14}{values[name]:.2e}")
        what = "train_curves"
    else:
        recipes = [name for name in chosen.recipes.split(",") if name]
        values["rows"] = measure(recipes, chosen.side, chosen.blocks, chosen.steps, chosen.device)
        for row in values["rows"]:
            print(f"{row['name']:<20}{Times(row['median'], row['low'], row['high'])}   {row['ratio']:.2f}x")
        what = "train_step"
    if chosen.write:
        print(f"wrote {write_result(f'{what}-{where}', what, values, chosen.device)}")


if __name__ == "__main__":
    main()
