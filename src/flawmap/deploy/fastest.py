"""The runtime of a bundle by its name; `auto` is the fastest here, by a short measurement made once.

The choice is kept beside the exports (deploy/kept.py) with a description of what it holds for: the bundle's network and
its size, the CPU, its cores and threads, the versions of the runtimes. When one of these changes, it is another file,
and is measured anew. On a GPU PyTorch needs no measurement: the exports compute on the CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from flawmap.bundle import Bundle
from flawmap.deploy.artefact import PACKAGES, available_cores
from flawmap.deploy.kept import Facts, Say, cache_folder, digest, facts_of, open_kept, versions
from flawmap.deploy.runtimes import AUTO, RUNTIMES_IN, Runtime, TorchRuntime
from flawmap.devices import pick_device
from flawmap.errors import ConfigError, DisagreementError
from flawmap.measure.found import Array

WARM, FEWEST, MOST = 2, 3, 30  # images before the measurement, and in it
BUDGET = 1.0  # seconds a runtime is measured for


@dataclass(frozen=True)
class Choice:
    """The fastest runtime, the seconds an image takes in each, and why others were left out."""

    runtime: str
    seconds: dict[str, float]
    refused: dict[str, str]

    def __str__(self) -> str:
        """One line."""
        ranked = sorted(self.seconds.items(), key=lambda item: item[1])
        times = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in ranked)
        reasons = "".join(f"; {name} is left out: {why}" for name, why in self.refused.items())
        return f"runtime {self.runtime} (an image took: {times}){reasons}"


def open_runtime(
    name: str, source: Path, bundle: Bundle, device: str, threads: int, say: Say, precision: str = "float32"
) -> Runtime:
    """The runtime `name`, one of RUNTIMES_IN[precision] or `auto`, of `bundle`, which was read from `source`.

    `say` is told, a line each, of an export and of what `auto` chose. Raises ConfigError for a device that is not there
    or that an export does not compute on, and with an export asked for by name, what `open_kept` raises.
    """
    if name == "torch":
        return TorchRuntime(bundle.model, device, threads, precision)
    on_gpu = pick_device(device).type != "cpu"
    if name != AUTO:
        if on_gpu and device != "auto":
            raise ConfigError(f"{name} computes on the CPU, not on {device}; use the runtime torch, or the device cpu")
        return open_kept(source, bundle, name, threads, say, precision)
    if on_gpu:
        say("runtime torch, as there is a GPU")
        return TorchRuntime(bundle.model, device, threads, precision)
    return _fastest(source, bundle, threads, say, precision)


def _fastest(source: Path, bundle: Bundle, threads: int, say: Say, precision: str) -> Runtime:
    installed = {}
    for kind in RUNTIMES_IN[precision][1:]:
        with contextlib.suppress(ConfigError):
            installed[kind] = versions(PACKAGES[kind])
    opened: dict[str, Runtime] = {"torch": TorchRuntime(bundle.model, "cpu", threads, precision)}
    if not installed:
        say("runtime torch; no other is installed to choose from: pip install 'flawmap[export]'")
        return opened["torch"]
    size = bundle.recipe.image
    facts = {
        **facts_of(source, bundle),
        "cores": available_cores(),
        "threads": threads,
        "torch_threads": torch.get_num_threads(),
        "network": [size.height, size.width],
        "versions": {**versions(["torch"]), **installed},
        "precision": precision,
    }
    if known := _known(facts):
        with contextlib.suppress(Exception):  # what went wrong since is found and said below
            runtime = opened.get(known.runtime) or open_kept(source, bundle, known.runtime, threads, say, precision)
            say(str(known))
            return runtime
    refused: dict[str, str] = {}
    lasting = True
    for kind in installed:
        try:
            opened[kind] = open_kept(source, bundle, kind, threads, say, precision)
        except DisagreementError as problem:
            refused[kind] = problem.fault
        except Exception as problem:  # PyTorch does without it; each package has kinds of its own
            refused[kind] = (str(problem).splitlines() or [type(problem).__name__])[0]
            lasting = False  # another time it may go well
    pixels = np.random.default_rng(0).random((1, 3, size.height, size.width), np.float32)
    seconds = {name: _seconds(runtime, pixels) for name, runtime in opened.items()}
    choice = Choice(min(seconds, key=seconds.__getitem__), seconds, refused)
    if lasting:
        _keep(choice, facts)
    say(str(choice))
    return opened[choice.runtime]


def _seconds(runtime: Runtime, pixels: Array) -> float:
    """What one image (1, 3, h, w) takes at best: what else the machine does only ever adds."""
    for _ in range(WARM):
        runtime(pixels)
    taken: list[float] = []
    end = time.perf_counter() + BUDGET
    while len(taken) < FEWEST or (len(taken) < MOST and time.perf_counter() < end):
        start = time.perf_counter()
        runtime(pixels)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _file(facts: Facts) -> Path:
    return cache_folder() / "choices" / f"{digest(facts)}.json"


def _known(facts: Facts) -> Choice | None:
    """The choice made for these facts, None when there is none that can be read."""
    try:
        note = json.loads(_file(facts).read_text(encoding="utf-8"))
        choice = Choice(**note["choice"])
        usable = note["facts"] == facts and choice.runtime in choice.seconds and bool(str(choice))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ConfigError):
        return None
    return choice if usable else None


def _keep(choice: Choice, facts: Facts) -> None:
    """Write the choice, in one move; where that cannot be, it is measured again the next time."""
    with contextlib.suppress(OSError, ConfigError):
        file = _file(facts)
        file.parent.mkdir(parents=True, exist_ok=True)
        saving = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            saving.write_text(json.dumps({"choice": asdict(choice), "facts": facts}, indent=1) + "\n", encoding="utf-8")
            saving.replace(file)
        finally:
            saving.unlink(missing_ok=True)
