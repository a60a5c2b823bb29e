"""A worker that cannot be started is tried again; where none can be for long, the station ends to be started anew."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from pathlib import Path

import httpx
import pytest
from station_helpers import Server, png, wait_until, workers_of

from flawmap.station import workers
from flawmap.station.settings import QueueSettings, WorkerSettings
from flawmap.station.workers import Pool


def handles(pid: int) -> int:
    """The largest number of an open file of a process, and one."""
    return 1 + max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize(
    "problem", [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EAGAIN, "again"), RuntimeError("no thread")]
)
def test_a_worker_that_cannot_be_started_for_a_while_is_started_after_it(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: Exception
) -> None:
    monkeypatch.setattr(workers, "PAUSE_S", 0.01)
    opened, left, start = Pool(WorkerSettings(count=2, threads=1), QueueSettings()), [5], Pool._start

    def fails(pool: Pool, slot: object) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise problem
        start(pool, slot)  # type: ignore[arg-type]

    monkeypatch.setattr(Pool, "_start", fails)
    ended: list[str] = []
    opened.lost = ended.append
    opened.start()
    try:
        opened.load("part@1", models / "part.bundle").result(120)
        assert opened.submit("part@1", png(1), 60).done.result(60).score >= 0
        assert (opened.load_now().alive, opened.replaced, ended) == (2, 0, [])
        told = [record.getMessage() for record in caplog.records if "cannot be started" in record.getMessage()]
        assert len(told) == 5 and str(problem) in told[0]
    finally:
        opened.close()


def test_a_pool_whose_workers_cannot_be_started_for_long_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PAUSE_S", 0.01)
    monkeypatch.setattr(workers, "LONGEST_PAUSE_S", 0.02)

    def fails(pool: Pool, slot: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Pool, "_start", fails)
    opened = Pool(WorkerSettings(count=2, threads=1, give_up_s=0.1), QueueSettings())
    told: list[str] = []
    ended = threading.Event()

    def lost(why: str) -> None:
        told.append(why)
        ended.set()

    opened.lost = lost
    opened.start()
    assert ended.wait(60)
    tries = [slot.down for slot in opened._slots]
    assert None not in tries
    opened.close()
    assert told == ["no worker could be started for 0.1 seconds: [Errno 24] Too many open files"]


def test_without_file_handles_a_killed_worker_comes_back_when_there_are_some(models: Path, tmp_path: Path) -> None:
    server = Server(models, tmp_path / "data")
    pid, usual = server.process.pid, resource.getrlimit(resource.RLIMIT_NOFILE)
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        assert http.post("/api/parts", content=png(1)).status_code == 201
        (worker,) = workers_of(server)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, usual[1]))  # nothing more can be opened
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.log.read_text().count("cannot be started") >= 2)
        assert workers_of(server) == []
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        wait_until(lambda: http.get("/readyz").status_code == 200)
        assert http.post("/api/parts", content=png(2)).status_code == 201
    assert server.stop() == 0


def test_without_file_handles_for_long_the_station_ends_with_an_error(models: Path, tmp_path: Path) -> None:
    server = Server(models, tmp_path / "data", "--set", "workers.give_up_s=1")
    (worker,) = workers_of(server)
    limit = handles(server.process.pid) - 4  # what is open stays so
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    os.kill(worker, signal.SIGKILL)
    assert server.process.wait(60) == 2, "systemd starts it anew"
    assert "no worker could be started for 1 seconds" in server.log.read_text().splitlines()[-1]
    again = Server(models, tmp_path / "data")
    assert again.stop() == 0
