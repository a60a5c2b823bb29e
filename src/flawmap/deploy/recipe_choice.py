"""The better recipe that inspects a part in the milliseconds that there are, measured before anything is trained.

A model of the recipe takes as long untrained, if its memory banks are as full as they will be. It is timed from an
image file to the verdict in each runtime that is installed, as deploy/fastest.py does it, and in bfloat16 where the
processor multiplies that. Exports are made in a process of their own, which is ended when they take too long.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flawmap.backbones.read import read_backbone
from flawmap.bundle import Bundle, build, load_bundle, load_general, load_imagenet, save_bundle
from flawmap.config import Recipe
from flawmap.data.white import FULL
from flawmap.deploy.artefact import BFLOAT16, PACKAGES, GraphRuntime
from flawmap.deploy.fastest import BUDGET, FEWEST, MOST, WARM
from flawmap.deploy.inspector import Inspector
from flawmap.deploy.kept import Say, versions
from flawmap.deploy.runtimes import RUNTIMES_IN, Runtime, TorchRuntime
from flawmap.devices import has_fast_bfloat16, pick_device
from flawmap.errors import BundleError, ConfigError, FlawmapError
from flawmap.measure.threshold import Threshold
from flawmap.model.familiarity import PRETRAINED
from flawmap.model.imagenet import ImageNetFeatures

EXPORT_SECONDS = 60.0  # for the exports of one recipe
KINDS = ("openvino", "onnx")  # the faster one first, in case the time is too short for both
# Untrained maps are noise: any other threshold outlines thousands of specks, which takes longer than the network.
EVERY_PART_PASSES = Threshold(1.0, 1.0, 0.01, 100, True, "given", "")


@dataclass(frozen=True)
class Timing:
    """What a part takes by a recipe, file to verdict, in its fastest runtime and precision on this machine."""

    recipe: str
    ms: float
    runtime: str
    precision: str

    def __str__(self) -> str:
        return f"{self.recipe} takes {self.ms:.1f} ms a part by {self.runtime} in {self.precision}"

    def facts(self, asked: float) -> dict[str, Any]:
        """What a bundle keeps of the choice."""
        return {
            "recipe": self.recipe,
            "asked_ms": asked,
            "measured_ms": round(self.ms, 1),
            "runtime": self.runtime,
            "precision": self.precision,
        }


def choose_recipe(names: Sequence[str], recipe_of: Callable[[str], Recipe], ms: float, photo: Path, say: Say) -> Timing:
    """The first of `names`, the best recipe first, that inspects `photo` in at most `ms` milliseconds.

    `recipe_of` gives a recipe by its name, its size settled. `say` is told what each takes, a line each. Raises
    ConfigError when none is fast enough, ImageError for a broken photo.
    """
    timings = []
    for name in names:
        timing = measure(name, recipe_of(name), photo, say)
        say(f"{timing}, from file to verdict (asked for: {ms:g} ms at most)")
        if timing.ms <= ms:
            return timing
        timings.append(timing)
    fastest = min(timings, key=lambda timing: timing.ms)
    raise ConfigError(
        f"no recipe needs at most {ms:g} ms a part on this machine: {fastest}, the least of all; give more --ms, or a "
        "smaller --set image.size"
    )


def measure(name: str, recipe: Recipe, photo: Path, say: Say) -> Timing:
    """What one photo takes by an untrained model of a recipe whose size is settled, in its fastest runtime.

    `say` is told where exports could not be measured. Raises ImageError for a broken photo.
    """
    bundle = untrained(recipe)
    found = [
        Timing(name, _milliseconds(bundle, runtime, photo), runtime.name, precision)
        for runtime, precision in _runtimes(bundle, say)
    ]
    return min(found, key=lambda timing: timing.ms)


def untrained(recipe: Recipe, seed: int = 0) -> Bundle:
    """An untrained bundle of a recipe, its memory banks filled at random, with the shipped weights where they fit:
    right for time. Every part passes. Raises ConfigError for a backbone of the user's own that cannot be used."""
    size = recipe.image.height, recipe.image.width
    backbone = read_backbone(recipe.model, size) if recipe.model.backbone else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(recipe.model, with_refinement=recipe.refine.steps > 0, backbone=backbone)
        for name, density in model.familiarity.named_densities() if model.familiarity is not None else ():
            if name in PRETRAINED and recipe.model.memory:
                density.remember(torch.randn(recipe.model.memory, len(density.mean)))
    if isinstance(model.imagenet, ImageNetFeatures):
        load_imagenet(model.imagenet)
    general, own = load_general().state_dict(), model.discrete.state_dict()
    if all(own[name].shape == tensor.shape for name, tensor in general.items()):
        model.discrete.load_state_dict(general)
    any_photo = {"white": {"set": FULL, "reach": 0.0}}  # its score does not matter
    return Bundle(model.eval().requires_grad_(False), recipe, EVERY_PART_PASSES, any_photo)


def _runtimes(bundle: Bundle, say: Say) -> Iterator[tuple[Runtime, str]]:
    """Each runtime and precision that is here; exports are deleted when the next one is asked for."""
    device = bundle.recipe.run.device
    place = pick_device(device)
    precisions = ["float32", *([BFLOAT16] if has_fast_bfloat16(place) else [])]
    for precision in precisions:
        yield TorchRuntime(bundle.model, device, precision=precision), precision
    if place.type != "cpu":  # exports compute on the CPU
        return
    installed = [kind for kind in KINDS if _installed(kind)]
    with tempfile.TemporaryDirectory(prefix="flawmap-") as name:
        folder = Path(name)
        source = folder / "untrained.bundle"
        if installed:
            save_bundle(bundle, source, dtype="float32")
        end = time.monotonic() + EXPORT_SECONDS
        exported = 0
        for kind in installed:
            file = folder / kind / ("x.onnx" if kind == "onnx" else "x.xml")
            try:
                _export(source, kind, file, end - time.monotonic())
                exported += 1
                for precision in precisions:
                    if kind in RUNTIMES_IN[precision]:
                        yield GraphRuntime(file, bfloat16=precision == BFLOAT16), precision
            except FlawmapError as problem:
                say(f"{kind} is not measured: {problem}")
        if not exported:
            say("PyTorch alone is measured" + ("" if installed else "; others take pip install 'flawmap[export]'"))


def _milliseconds(bundle: Bundle, runtime: Runtime, photo: Path) -> float:
    """Median of what a part takes, file to verdict."""
    inspector = Inspector(bundle, runtime=runtime)
    for _ in range(WARM):
        inspector.inspect(photo)
    taken: list[float] = []
    end = time.perf_counter() + BUDGET
    while len(taken) < FEWEST or (len(taken) < MOST and time.perf_counter() < end):
        start = time.perf_counter()
        inspector.inspect(photo)
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def _installed(kind: str) -> bool:
    with suppress(ConfigError):
        return bool(versions(PACKAGES[kind]))
    return False


def _export(source: Path, kind: str, file: Path, seconds: float) -> None:
    """Export the bundle at `source` to `file`, in a process of its own. Raises BundleError, also after `seconds`."""
    words = [sys.executable, "-m", __name__, str(source), kind, str(file)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=max(seconds, 0.0), check=False)
    except subprocess.TimeoutExpired as problem:
        raise BundleError(f"the exports take more than {EXPORT_SECONDS:g} s") from problem
    except OSError as problem:
        raise BundleError(f"the export cannot be started: {problem.strerror}") from problem
    if done.returncode or not file.is_file():
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise BundleError(f"the export failed: {lines[-1] if lines else f'code {done.returncode}'}")


def _main(source: str, kind: str, file: str) -> None:
    """What the process of `_export` does."""
    from flawmap.deploy.export import unchecked

    Path(file).parent.mkdir()
    unchecked(load_bundle(Path(source)), kind, Path(file).with_suffix(""))


if __name__ == "__main__":
    _main(*sys.argv[1:])
