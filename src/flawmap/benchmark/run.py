"""Run the jobs of a benchmark, each in a process of its own; one that fails does not stop the rest."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flawmap.benchmark.plan import BUNDLE, ERROR, LOG, SECONDS, Job
from flawmap.errors import DataError

LOCK = "lock"
LOOK = 0.5  # seconds between two looks at the jobs
NOTE = 5.0  # seconds between two notes of the time that a training has taken
PATIENCE = 10.0  # seconds a job is given to end when the run is stopped


class Running:
    """A job at work."""

    def __init__(self, job: Job) -> None:
        self.job = job
        (job.folder / ERROR).unlink(missing_ok=True)
        self.before = _seconds(job)
        self.training = not (job.folder / BUNDLE).exists()
        self.started = self.noted = time.monotonic()
        with (job.folder / LOG).open("a", encoding="utf-8") as log:
            command = [sys.executable, "-m", "flawmap.benchmark.job", str(job.folder), str(os.getpid())]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def look(self) -> int | None:
        """Exit code, None while it runs. Notes the time that its training has taken so far."""
        code = self.process.poll()
        if self.training and (code is not None or time.monotonic() - self.noted > NOTE):
            self.noted = time.monotonic()
            (self.job.folder / SECONDS).write_text(f"{self.before + self.noted - self.started:.1f}\n", encoding="ascii")
            self.training = not (self.job.folder / BUNDLE).exists()
        return code

    def at(self) -> str:
        """What it is doing, for the terminal."""
        if not self.training:
            return "evaluates"
        log = self.job.folder / f"{BUNDLE}.run" / "metrics.jsonl"
        with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
            last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
            return f"trains, {last['stage']} step {last['step']}"
        return "begins"

    def stop(self) -> None:
        """End it; a training goes on from its last checkpoint next time."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within, no other benchmark runs in `folder`. Raises DataError when one does."""
    import fcntl

    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            raise DataError(
                f"another benchmark is at work in {folder}; wait for it, or choose another --out"
            ) from problem
        yield


def run_jobs(jobs: Sequence[Job], at_once: int, quiet: bool = False) -> None:
    """Run the jobs that are not done, `at_once` of them side by side; result or error are then in their folders."""
    console = Console(stderr=True)
    waiting = [job for job in jobs if job.result() is None]
    done, total = len(jobs) - len(waiting), len(jobs)
    if done and not quiet:
        console.print(f"{done} of {total} are done already", highlight=False)
    running: list[Running] = []
    with _progress(console, quiet) as progress:
        tasks: dict[str, TaskID] = {}
        whole = progress.add_task("all", total=total, completed=done, text=f"{done} of {total} done")
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(Running(waiting.pop(0)))
                    name = running[-1].job.name
                    tasks[name] = progress.add_task(name, total=None, text="begins")
                time.sleep(LOOK)
                for each in list(running):
                    code = each.look()
                    progress.update(tasks[each.job.name], text=each.at())
                    if code is None:
                        continue
                    running.remove(each)
                    done += 1
                    progress.remove_task(tasks.pop(each.job.name))
                    progress.update(whole, completed=done, text=f"{done} of {total} done")
                    line = f"{done}/{total}  {each.job.name}: {_outcome(each.job, code)}"
                    if not quiet:
                        progress.console.print(line, highlight=False, soft_wrap=True, markup=False)
        finally:
            for each in running:
                each.stop()


def _progress(console: Console, quiet: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal)


def _outcome(job: Job, code: int) -> str:
    """One line of what came of a job that ended; a job that was killed leaves no error of its own."""
    result = job.result()
    if result is None:
        if not job.error():
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            (job.folder / ERROR).write_text(f"{how}; see {job.folder / LOG}\n", encoding="utf-8")
        return f"failed: {job.error()}"
    found = result["metrics"]

    def figure(name: str) -> str:
        value = found[name]["value"]
        return "–" if value is None else f"{value:.3f}"

    quality = f"image AUROC {figure('image_auroc')}, pixel AP {figure('pixel_ap')}"
    return f"{quality}, {result['minutes']:.1f} min to train"


def _seconds(job: Job) -> float:
    with contextlib.suppress(OSError, ValueError):
        return float((job.folder / SECONDS).read_text(encoding="ascii"))
    return 0.0


def threads_each(at_once: int) -> int:
    """Threads of each of so many jobs side by side; 0, which is all cores, for one alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if at_once == 1 else max(1, cores // at_once)


def folder_of(out: Path | None, root: Path, recipe: str) -> Path:
    """Where a benchmark goes: `out`, or a name of its data set and recipe in the current folder."""
    return out or Path(f"benchmark-{root.resolve().name}-{Path(recipe).stem}")
