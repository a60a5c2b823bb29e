"""What the measurements share: interleaved timing, facts of the machine, result files."""

from __future__ import annotations

import datetime
import gc
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro", "escape", "overkill")  # that results hold


class Times(NamedTuple):
    """Seconds of one call: the median over rounds, and the fastest and the slowest round."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{1000 * self.median:9.1f} ms [{1000 * self.low:.1f}, {1000 * self.high:.1f}]"


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 0.3) -> dict[str, Times]:
    """Time `calls` in turn, A B C A B C …, so that what the machine does besides falls on all alike.

    A turn repeats one call until `seconds` have passed; its figure is the median without the first, which finds the
    caches full of the call before. One round more is run first and thrown away.
    """
    turns: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            took = _turn(call, seconds)
            if round_:
                turns[name].append(took)
    return {name: Times(median(found), min(found), max(found)) for name, found in turns.items()}


def _turn(call: Callable[[], object], seconds: float) -> float:
    found: list[float] = []
    began = time.perf_counter()
    while not found or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return median(found[1:] or found)


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: str = "cpu") -> str:
    """One phrase: processor or GPU, cores or threads, versions."""
    count = cores()
    found = f"{_processor()}, {count} core{'s' * (count > 1)}"
    name = torch.cuda.get_device_name() if device.startswith("cuda") else found
    return f"{name}, Python {platform.python_version()}, PyTorch {torch.__version__}"


def processor(result: Mapping[str, Any]) -> str:
    """The processor or GPU that a result was measured on, without versions."""
    return str(result["machine"]).partition(",")[0]


def _processor() -> str:
    found = "unknown processor"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or found
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    wide = " with AVX-512" if any("avx512f" in line for line in lines) else ""
    return (names or [found])[0] + wide


def commit(folder: Path = HERE, paths: Sequence[str] = ("../src", "*.py")) -> str:
    """Short commit of the checkout around `folder`, with a `+` when files in `paths`, relative to it, have changed."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", *paths],
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
    except OSError:
        return "unknown"
    return (found.stdout.strip() or "unknown") + ("+" if changed.stdout.strip() else "")


def write_result(name: str, what: str, values: Mapping[str, Any], device: str = "cpu", folder: Path = RESULTS) -> Path:
    """Write folder/NAME.json: `values`, and where, when and with which commit they were measured."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    note = {
        "what": what,
        "commit": commit(),
        "machine": machine(device),
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_before": LOAD,
        **values,
    }
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(note, indent=2, default=_plain) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def read_results(what: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All result files of one kind, oldest first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return sorted((result for result in found if result["what"] == what), key=lambda result: result["measured"])


# How busy the machine was when the program started: figures of a busy one say little.
LOAD = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
