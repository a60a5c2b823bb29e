"""What the trainings share: device and precision, one random stream, progress, metrics, atomic checkpoints.

A training's state is one safetensors file: weights, optimizer moments and random state as tensors, counters as
text. It is written beside its place and then moved there, so that a killed run leaves the last whole one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

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

    def due(self, ahead: float = 0.0) -> bool:
        """Whether the time has come, or will within so many seconds; if so, the clock starts anew."""
        if time.monotonic() - self.last + ahead < self.seconds:
            return False
        self.last = time.monotonic()
        return True


class Meter:
    """Progress of one stage: a bar on a terminal; elsewhere a line after the first step, and each half minute.

    Both show losses and speed.
    """

    def __init__(self, stage: str, total: int, done: int, samples_a_step: int, quiet: bool) -> None:
        self.stage, self.total, self.samples = stage, total, samples_a_step
        self.console = Console(stderr=True)
        self.started, self.first, self.losses = time.monotonic(), done, ""
        self.lines, self.begun = Every(30.0), False
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
        elif not self.quiet and (not self.begun or self.lines.due() or (step == self.total and losses)):
            self.begun = True
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


class Interrupt:
    """Ctrl-C during steps: the step under way is finished and kept; a second one stops at once.

    Only where Ctrl-C would raise KeyboardInterrupt: in the main thread, and where nobody else handles it. Of several
    processes each would stop at a step of its own, and wait for the others for ever: they stop at once.
    """

    def __init__(self, console: Console | None) -> None:
        self.console, self.asked = console, False
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        self.handles = usual and alone and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupt:
        if self.handles:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handles:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self.console is not None:
            self.console.print("stopping after this step, which is kept; Ctrl-C again stops at once", highlight=False)


class Pool(Protocol):
    """What steps leave for later ones, a batch a step, the last `batches` of them."""

    batches: int

    @property
    def buffers(self) -> dict[str, Tensor]:
        """All of it, as an earlier flawmap kept it."""
        ...

    def packed(self, first: int, last: int) -> dict[str, Tensor]:
        """What the steps from `first` to before `last` left, which are no more than `batches`."""
        ...

    def unpack(self, first: int, last: int, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `packed` gave. Raises KeyError, RuntimeError or ValueError for what does not fit."""
        ...


class Stage:
    """The steps of one training, taken up where its checkpoint left off.

    Iterating gives the numbers of the steps still to do; between two steps the state is saved when it is time, so that
    no more than `run.checkpoint_seconds` of work are lost, and when Ctrl-C is pressed. The state is that of `modules`,
    `optimizer`, `generator`, the buffers in `extra`, and what lies in `pool`; what a step does must follow from these
    and from its number alone, so that a resumed run gives the weights of an uninterrupted one.

    The checkpoint is one file, and of the pool there is a file of the batches that came between two checkpoints, so
    that each batch is written once. A file is removed when no batch in it is in the pool any more.
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
        pool: Pool | None = None,
        resume: bool = False,
        quiet: bool = False,
        rank: int = 0,
    ) -> None:
        self.name, self.total, self.samples, self.quiet, self.rank = name, total, samples, quiet or rank > 0, rank
        self.modules, self.optimizer, self.generator, self.extra = modules, optimizer, generator, extra or {}
        self.checkpoint = folder / (f"{name}.safetensors" if rank == 0 else f"{name}.{rank}.safetensors")
        self.seconds, self.done = settings.checkpoint_seconds, 0
        self.pool, self.pooled = pool, list[tuple[int, int]]()  # steps of each file of the pool
        resumed = resume and self.checkpoint.exists()
        if resumed:
            self._restore()
        self.log = MetricsLog(folder / METRICS, name, self.done) if rank == 0 else None
        self.meter = Meter(name, total, self.done, samples, self.quiet)
        if resumed and not self.quiet:
            self.meter.console.print(
                f"{name} goes on after step {self.done} of {total}", highlight=False, soft_wrap=True
            )

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
            if self.pool is not None:
                self._restore_pool(int(notes["step"]), tensors, [(int(a), int(b)) for a, b in notes.get("pool", [])])
            restore_optimizer(self.optimizer, tensors, "adam.")
            self.generator.set_state(tensors["generator"])
        except (KeyError, RuntimeError, ValueError, TypeError) as problem:
            first = str(problem).splitlines()[0]
            raise CheckpointError(
                f"{self.checkpoint} does not fit this recipe ({first}); delete it to start anew"
            ) from problem
        self.done = int(notes["step"])

    def _restore_pool(self, step: int, tensors: Mapping[str, Tensor], files: list[tuple[int, int]]) -> None:
        assert self.pool is not None
        if not files and step:  # a checkpoint of an earlier flawmap, which held all of the pool
            for name, buffer in self.pool.buffers.items():
                buffer.copy_(tensors[f"extra.{name}"])
        for first, last in files:
            self.pool.unpack(first, last, load_state(self._pool_file(first, last))[0])
        self.pooled = files

    def _pool_file(self, first: int, last: int) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.stem}.pool-{first:07}-{last:07}.safetensors")

    def save(self, step: int) -> None:
        """Write the checkpoint as of `step` finished steps."""
        if self.pool is not None:
            self._save_pool(step)
        tensors = {**optimizer_tensors(self.optimizer, "adam."), "generator": self.generator.get_state()}
        for name, module in self.modules.items():
            tensors |= prefixed(module, f"{name}.")
        tensors |= {f"extra.{name}": buffer for name, buffer in self.extra.items()}
        save_state(self.checkpoint, tensors, {"step": step, "total": self.total, "pool": self.pooled})
        kept = {self._pool_file(*steps) for steps in self.pooled}
        for file in self.checkpoint.parent.glob(f"{self.checkpoint.stem}.pool-*"):
            if file not in kept:  # the checkpoint that needed it is replaced
                file.unlink(missing_ok=True)

    def _save_pool(self, step: int) -> None:
        """Write what came into the pool since the last checkpoint, before one that needs it."""
        assert self.pool is not None
        oldest = max(step - self.pool.batches, 0)
        first = max(self.pooled[-1][1] if self.pooled else 0, oldest)
        if first < step:
            save_state(self._pool_file(first, step), self.pool.packed(first, step), {})
            self.pooled.append((first, step))
        self.pooled = [steps for steps in self.pooled if steps[1] > oldest]

    def __iter__(self) -> Iterator[int]:
        due, began = Every(self.seconds), time.monotonic()
        with self.meter, Interrupt(None if self.quiet else self.meter.console) as interrupt:
            for step in range(self.done, self.total):
                yield step
                ended = time.monotonic()
                lasted, began = ended - began, ended
                self.meter.show(step + 1, {})
                last = step + 1 == self.total
                if due.due(lasted) or last or interrupt.asked:
                    self.save(step + 1)
                if interrupt.asked and not last:
                    raise KeyboardInterrupt
        if interrupt.asked:
            raise KeyboardInterrupt

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
