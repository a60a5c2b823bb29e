"""What the trainings share: device and precision, one random stream, progress, metrics, atomic checkpoints.

A training's state is one safetensors file: weights, optimizer moments and random state as tensors, counters as
text. It is written beside its place and then moved there, so that a killed run leaves the last whole one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from flawmap.config import RunSettings
from flawmap.devices import has_fast_bfloat16, pick_device
from flawmap.errors import CheckpointError, first_line
from flawmap.memory import keep_freed_memory

METRICS = "metrics.jsonl"


class Machine:
    """Where and how a training computes: device, autocast precision, threads; it keeps memory that it frees."""

    def __init__(self, settings: RunSettings) -> None:
        self.device = pick_device(settings.device)
        self.threads = (
            settings.threads or len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else settings.threads or os.cpu_count() or 1
        )
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        # Denormal numbers cost a hundred times a normal one on CPUs and carry nothing here.
        torch.set_flush_denormal(True)
        # On a GPU launches take the time, and casts are more of them (docs/speed.md).
        self.bfloat16 = settings.precision == "bfloat16" or (
            settings.precision == "auto" and self.device.type == "cpu" and has_fast_bfloat16(self.device)
        )

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which convolutions run in the chosen precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def describe(self) -> str:
        """One phrase for logs and provenance."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{self.threads} CPU threads"
        return f"{name}, {'bfloat16' if self.bfloat16 else 'float32'}, PyTorch {torch.__version__}"


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # backslashreplace: a file name that is not valid Unicode may be in it
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


def save_state(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able notes as one safetensors file, atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # clone: safetensors refuses tensors that share memory, and views would save their whole storage.
    contiguous = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, temporary, metadata={"notes": json.dumps(dict(notes))})
    temporary.chmod(0o644)  # safetensors writes 0600
    temporary.replace(path)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes of `save_state`. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {}).get("notes", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118, not a mapping
    except (OSError, SafetensorError, json.JSONDecodeError) as problem:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({first_line(problem)}); delete it to start anew"
        ) from problem


def adam(parameters: ParamsT, rate: float, device: torch.device) -> torch.optim.Adam:
    """Adam; on a GPU a single kernel takes the step, where there would be a dozen launches for each parameter group."""
    return torch.optim.Adam(parameters, lr=rate, fused=device.type == "cuda" or None)


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """State of an Adam optimizer as tensors named `prefix`number.moment."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}{index}.{name}": torch.as_tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what `optimizer_tensors` gave."""
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, name = key.removeprefix(prefix).split(".")
            state.setdefault(int(index), {})[name] = value
    whole["state"] = state
    optimizer.load_state_dict(whole)
    for parameter, entry in optimizer.state.items():  # laid out as the weights, as a single kernel needs them
        for name, value in entry.items():
            if value.shape == parameter.shape and value.dim():
                entry[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def prefixed(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """A module's state with `prefix` before each name."""
    return {prefix + name: value for name, value in module.state_dict().items()}


def unprefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class MetricsLog:
    """metrics.jsonl: a line per record, flushed at once; on resume, lines past the checkpoint are dropped."""

    def __init__(self, path: Path, stage: str, resumed_at: int) -> None:
        self.path, self.stage = path, stage
        if path.exists():
            kept = []
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line cut short by a kill
                    record = json.loads(line)
                    if record["stage"] != stage or record["step"] <= resumed_at:
                        kept.append(line)
            write_atomically(path, "".join(line + "\n" for line in kept))

    def write(self, step: int, **values: float) -> None:
        """Append one record."""
        record = {"stage": self.stage, "step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class Every:
    """Says yes once each `seconds` of wall time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def due(self) -> bool:
        """Whether the time has come; if so, the clock starts anew."""
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


class Meter:
    """Progress of one stage: a bar on a terminal, a line each half minute elsewhere. Both show losses and speed."""

    def __init__(self, stage: str, total: int, done: int, samples_a_step: int, quiet: bool) -> None:
        self.stage, self.total, self.samples = stage, total, samples_a_step
        self.console = Console(stderr=True)
        self.started, self.first, self.losses = time.monotonic(), done, ""
        self.lines = Every(30.0)
        self.bar: Progress | None = None
        self.quiet = quiet
        if self.console.is_terminal and not quiet:
            columns = (
                TextColumn(stage),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task(stage, total=total, completed=done, text="")

    def __enter__(self) -> Meter:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def rate(self, step: int) -> float:
        """Samples a second since this process took up the stage."""
        return (step - self.first) * self.samples / max(time.monotonic() - self.started, 1e-9)

    def show(self, step: int, losses: Mapping[str, float]) -> None:
        """Report that `step` steps are done; `losses` may be empty to keep the last shown."""
        if losses:
            self.losses = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        text = f"{self.losses}  {self.rate(step):.1f} samples/s"
        if self.bar:
            self.bar.update(self.task, completed=step, text=text)
        elif not self.quiet and (self.lines.due() or step == self.total):
            left = (self.total - step) * (time.monotonic() - self.started) / max(step - self.first, 1)
            self.console.print(
                f"{self.stage} {step}/{self.total}  {text}  {left / 60:.1f} min left", highlight=False, soft_wrap=True
            )


def seeded(seed: int, *stream: int) -> torch.Generator:
    """A CPU generator of its own for a purpose: the same seed and stream numbers give the same draws."""
    mixed = seed
    for number in stream:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63)
    return torch.Generator().manual_seed(mixed)


@contextlib.contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Inside, layers draw their first weights from `seed`, and the global random state is put back after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Stage:
    """The steps of one training, taken up where its checkpoint left off.

    Iterating gives the numbers of the steps still to do; between two steps the state is saved when it is time. The
    state is that of `modules`, `optimizer`, `generator` and the buffers in `extra`; what a step does must follow from
    these and from its number alone, so that a resumed run gives the weights of an uninterrupted one.
    """

    def __init__(
        self,
        name: str,
        total: int,
        samples: int,
        *,
        folder: Path,
        settings: RunSettings,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        extra: Mapping[str, Tensor] | None = None,
        resume: bool = False,
        quiet: bool = False,
        rank: int = 0,
    ) -> None:
        self.name, self.total, self.samples, self.quiet, self.rank = name, total, samples, quiet or rank > 0, rank
        self.modules, self.optimizer, self.generator, self.extra = modules, optimizer, generator, extra or {}
        self.checkpoint = folder / (f"{name}.safetensors" if rank == 0 else f"{name}.{rank}.safetensors")
        self.seconds, self.done = settings.checkpoint_seconds, 0
        if resume and self.checkpoint.exists():
            self._restore()
        self.log = MetricsLog(folder / METRICS, name, self.done) if rank == 0 else None
        self.meter = Meter(name, total, self.done, samples, self.quiet)

    def _restore(self) -> None:
        tensors, notes = load_state(self.checkpoint)
        if notes.get("total") != self.total:
            raise CheckpointError(
                f"{self.checkpoint} is of a run of {notes.get('total')} steps, not {self.total}; "
                "resume with the recipe it was started with, or delete it"
            )
        try:
            for name, module in self.modules.items():
                module.load_state_dict(unprefixed(tensors, f"{name}."))
            for name, buffer in self.extra.items():
                buffer.copy_(tensors[f"extra.{name}"])
            restore_optimizer(self.optimizer, tensors, "adam.")
            self.generator.set_state(tensors["generator"])
        except (KeyError, RuntimeError, ValueError) as problem:
            first = str(problem).splitlines()[0]
            raise CheckpointError(
                f"{self.checkpoint} does not fit this recipe ({first}); delete it to start anew"
            ) from problem
        self.done = int(notes["step"])

    def save(self, step: int) -> None:
        """Write the checkpoint as of `step` finished steps."""
        tensors = {**optimizer_tensors(self.optimizer, "adam."), "generator": self.generator.get_state()}
        for name, module in self.modules.items():
            tensors |= prefixed(module, f"{name}.")
        tensors |= {f"extra.{name}": buffer for name, buffer in self.extra.items()}
        save_state(self.checkpoint, tensors, {"step": step, "total": self.total})

    def __iter__(self) -> Iterator[int]:
        due = Every(self.seconds)
        with self.meter:
            for step in range(self.done, self.total):
                yield step
                if due.due() or step + 1 == self.total:
                    self.save(step + 1)

    def report(self, step: int, losses: Mapping[str, Tensor], every: int = 20) -> None:
        """Show and log the losses of `step` when it is one of each `every`, or the last."""
        finished = step + 1
        if finished % every == 0 or finished == self.total:
            values = {name: float(value.detach()) for name, value in losses.items()}
            self.meter.show(finished, values)
            self.write(finished, **values, samples_a_second=self.meter.rate(finished))

    def write(self, finished: int, **values: float) -> None:
        """A line in metrics.jsonl."""
        if self.log:
            self.log.write(finished, **values)


def set_rate(optimizer: torch.optim.Optimizer, rate: float, groups: slice = slice(None)) -> None:
    """Give every group of parameters, or some, this learning rate."""
    for group in optimizer.param_groups[groups]:
        group["lr"] = rate


def learning_rate(step: int, steps: int, warmup: int, rate: float) -> float:
    """Linear rise over `warmup` steps, then half a cosine down to 0 at `steps`; `step` counts from 0."""
    if step < warmup:
        return rate * (step + 1) / warmup
    return rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
