"""Trainings and evaluations in processes of their own: timed over all attempts, resumed after a stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

STOPPED = (-signal.SIGINT, 128 + signal.SIGINT)  # return codes of a command that Ctrl-C ended
HEARTBEAT = 10.0  # seconds between two notes of the time a training has taken


class Failed(SystemExit):
    """A command ended with an error; the message says which, and how to go on."""


class Busy(Exception):
    """Another process works in a folder."""


def clock(file: Path) -> float:
    """Seconds a training has taken so far."""
    return float(file.read_text(encoding="ascii")) if file.exists() else 0.0


def timed(
    command: Sequence[str],
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: IO[str] | None = None,
    keep_open: Sequence[int] = (),
) -> None:
    """Run a command; with `file`, add the seconds it takes to those that `file` holds. Raises Failed when it fails, and
    KeyboardInterrupt when Ctrl-C ended it.

    `log` takes what it prints; `keep_open` are file descriptors that it inherits.
    """
    before, started = clock(file) if file else 0.0, time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, pass_fds=keep_open)
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(HEARTBEAT)
            if file:
                file.write_text(f"{before + time.monotonic() - started:.1f}\n", encoding="ascii")
    except BaseException:  # also Ctrl-C: the training writes what it has and ends
        process.terminate()
        process.wait()
        raise
    if process.returncode in STOPPED:  # Ctrl-C met the command alone, or before it met this process
        raise KeyboardInterrupt
    if process.returncode:
        raise Failed(f"{' '.join(command)} ended with {process.returncode}; give the same command again to go on")


def train_and_evaluate(
    train: Path,
    test: Path,
    how: Sequence[str],
    bundle: Path,
    report: Path,
    spent: Path,
    *,
    env: Mapping[str, str] | None = None,
    log: IO[str] | None = None,
    keep_open: Sequence[int] = (),
) -> None:
    """Train `bundle` on the data `train` unless it exists, and evaluate it on the data `test` into the folder `report`.

    `how`: options of `flawmap train`; `spent`: file with the seconds of training over all attempts; the others as in
    `timed`. A training that was stopped goes on. Raises Failed when either ends with an error.
    """
    flawmap = [sys.executable, "-m", "flawmap"]
    if not bundle.exists():
        timed([*flawmap, "train", str(train), *how, "--out", str(bundle), "--resume"], spent, env, log, keep_open)
    evaluate = [*flawmap, "evaluate", str(bundle), str(test), "--out", str(report), "--overwrite"]
    timed(evaluate, None, env, log, keep_open)


def read_metrics(bundle: Path, report: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics of an evaluation, provenance of its bundle), as their JSON files hold them."""
    metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    return metrics, json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["provenance"]


def went_on(provenance: Mapping[str, Any], minutes: float) -> bool:
    """Whether a training of `minutes` over all attempts was stopped and resumed."""
    return bool(provenance["resumed"]) and provenance["minutes"] < 0.9 * minutes


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[int]:
    """Hold the lock of `folder`, which is made. Raises Busy when another process holds it, or waits for it.

    Yields the descriptor of the lock: a child that inherits it holds the lock as well, also when its parent is killed.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as problem:
            raise Busy(f"another process is at work in {folder}") from problem
        yield lock.fileno()


def one_thread(package: Path) -> dict[str, str]:
    """The environment of a process that computes in one thread with the code in the folder `package`."""
    path = os.pathsep.join(part for part in (str(package), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}
