from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from station_helpers import picture, png, wait_until

import flawmap
from flawmap.bundle_facts import sealed
from flawmap.errors import ConfigError, StationError
from flawmap.station import inspecting
from flawmap.station.settings import QueueSettings, WorkerSettings
from flawmap.station.workers import Pool


@pytest.fixture(scope="module")
def pool(models: Path) -> Iterator[Pool]:
    """Two workers with a model, shared by these tests; each leaves it working."""
    figures: list[Any] = []
    opened = Pool(WorkerSettings(count=2, threads=1), QueueSettings(size=40), lambda *found: figures.append(found))
    opened.start()
    opened.load("part@1", models / "part.bundle").result(120)
    opened.seen = figures  # type: ignore[attr-defined]
    yield opened
    opened.close()


def process(pool: Pool, number: int) -> Any:
    return pool._slots[number].process


def test_a_worker_finds_what_the_inspector_finds(pool: Pool, models: Path) -> None:
    inspector = flawmap.load(models / "part.bundle", "cpu")
    jobs = [pool.submit("part@1", png(number), 60) for number in range(10)]
    for number, job in enumerate(jobs):
        found, expected = job.done.result(60), inspector.inspect(picture(number))
        assert found.score == pytest.approx(expected.score, abs=1e-6)
        assert (found.defective, found.threshold) == (expected.defective, expected.threshold)
        assert found.p_value == expected.p_value
        assert (found.height, found.width) == (64, 80)
        assert [region["box"] for region in found.regions] == [region.box for region in expected.regions]


def test_what_is_no_image_is_refused_and_the_others_go_on(pool: Pool) -> None:
    jobs = [pool.submit("part@1", data, 60) for data in (png(1), b"no image", png(2), png(3)[:-20])]
    for number in (1, 3):
        with pytest.raises(StationError) as raised:
            jobs[number].done.result(60)
        assert raised.value.status == 422
    assert [0 <= jobs[number].done.result(60).score <= 1 for number in (0, 2)] == [True, True]


def test_one_too_many_is_refused_at_once_with_the_time_to_wait(models: Path) -> None:
    opened = Pool(WorkerSettings(), QueueSettings(size=3))  # not started: nothing is taken from the queue
    opened.models["part@1"] = models / "part.bundle"
    for _ in range(3):
        opened.submit("part@1", png(1), 60)
    with pytest.raises(StationError) as raised:
        opened.submit("part@1", png(1), 60)
    assert (raised.value.status, raised.value.retry_after >= 1) == (429, True)
    opened._queue[0].done.cancel()
    opened.submit("part@1", png(1), 60)


def test_work_past_its_deadline_is_not_done(pool: Pool) -> None:
    with pytest.raises(StationError) as raised:
        pool.submit("part@1", png(1), -1.0).done.result(60)
    assert raised.value.status == 504


def test_a_model_that_is_not_loaded_is_refused(pool: Pool) -> None:
    with pytest.raises(StationError) as raised:
        pool.submit("other@1", png(1), 60)
    assert raised.value.status == 409


def test_a_killed_worker_is_replaced_and_only_what_it_held_is_lost(pool: Pool) -> None:
    before, first = pool.replaced, process(pool, 0).pid
    os.kill(first, signal.SIGSTOP)  # it takes work and does not finish it
    os.kill(process(pool, 1).pid, signal.SIGSTOP)
    jobs = [pool.submit("part@1", png(number), 120) for number in range(12)]
    wait_until(lambda: pool.load_now().running == 4)
    held = list(pool._slots[0].sent.values())
    os.kill(first, signal.SIGKILL)
    os.kill(process(pool, 1).pid, signal.SIGCONT)
    lost = 0
    for job in jobs:
        if job in held:
            with pytest.raises(StationError) as raised:
                job.done.result(60)
            assert raised.value.status == 503
            lost += 1
        else:
            assert 0 <= job.done.result(60).score <= 1
    assert lost == 2
    wait_until(lambda: pool.load_now().alive == 2)
    assert pool.replaced == before + 1
    assert process(pool, 0).pid != first


def test_a_stuck_worker_is_replaced(models: Path) -> None:
    opened = Pool(WorkerSettings(count=1, threads=1), QueueSettings(stuck_s=1.0))
    opened.start()
    opened.load("part@1", models / "part.bundle").result(120)
    os.kill(process(opened, 0).pid, signal.SIGSTOP)
    with pytest.raises(StationError) as raised:
        opened.submit("part@1", png(1), 600).done.result(60)
    assert raised.value.status == 503
    assert opened.submit("part@1", png(1), 600).done.result(60).score >= 0
    opened.close()


def test_images_that_wait_are_inspected_together(models: Path) -> None:
    opened = Pool(WorkerSettings(count=1, threads=1, batch=4), QueueSettings())
    opened.start()
    opened.load("part@1", models / "part.bundle").result(120)
    jobs = [opened.submit("part@1", png(number), 60) for number in range(32)]
    seconds = [job.done.result(60).seconds for job in jobs]
    alone = flawmap.load(models / "part.bundle", "cpu")
    assert jobs[9].done.result().score == pytest.approx(alone.inspect(picture(9)).score, abs=1e-6)
    assert len(seconds) == 32
    opened.close()


def test_a_model_is_loaded_and_let_go_while_the_other_inspects(pool: Pool, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "part.bundle", tmp_path / "other.bundle")
    jobs = [pool.submit("part@1", png(number), 60) for number in range(30)]
    pool.load("other@1", tmp_path / "other.bundle").result(60)
    jobs += [pool.submit("other@1", png(number), 60) for number in range(5)]
    assert all(job.done.result(60).score >= 0 for job in jobs)
    pool.unload("other@1")
    with pytest.raises(StationError):
        pool.submit("other@1", png(1), 60)
    assert pool.submit("part@1", png(1), 60).done.result(60).score >= 0


def test_a_bundle_that_cannot_be_loaded_is_refused_with_its_reason(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(StationError, match="is not a bundle"):
        pool.load("none@1", tmp_path).result(60)
    assert "none@1" not in pool.models


def test_a_bundle_that_breaks_the_loading_is_refused_and_the_next_one_is_loaded(
    pool: Pool, models: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.bundle"
    shutil.copytree(models / "part.bundle", broken)
    note = json.loads((broken / "bundle.json").read_text())
    (broken / "bundle.json").write_text(sealed(note | {"provenance": {"held_out_scores": 1}}, broken))
    with pytest.raises(StationError, match=r"bundle\.json is damaged \(provenance\.held_out_scores"):
        pool.load("broken@1", broken).result(60)
    pool.load("after@1", models / "part.bundle").result(60)
    pool.unload("after@1")


def test_measured_photos_have_figures(pool: Pool) -> None:
    pool.submit("part@1", png(100), 60, measure=True).done.result(60)
    wait_until(lambda: pool.seen)  # type: ignore[attr-defined]
    ref, values = pool.seen[-1]  # type: ignore[attr-defined]
    assert (ref, len(values)) == ("part@1", 12)


def test_closing_finishes_what_was_taken_and_takes_no_more(models: Path) -> None:
    opened = Pool(WorkerSettings(count=1, threads=1), QueueSettings())
    opened.start()
    opened.load("part@1", models / "part.bundle").result(120)
    jobs = [opened.submit("part@1", png(number), 60) for number in range(40)]
    opened.close(60)
    assert all(job.done.result(0).score >= 0 for job in jobs)
    with pytest.raises(StationError) as raised:
        opened.submit("part@1", png(1), 60)
    assert raised.value.status == 503


def test_unasked_a_worker_is_started_for_each_core_but_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, count, threads in ((1, 1, 1), (2, 2, 1), (8, 4, 2), (64, 4, 16)):
        monkeypatch.setattr("flawmap.station.workers._cores", lambda cores=cores: cores)
        opened = Pool(WorkerSettings(device="cpu"), QueueSettings())
        assert (opened.count, opened.orders.threads) == (count, threads)
    monkeypatch.setattr("flawmap.devices.pick_device", lambda name: torch.device("cuda"))
    assert Pool(WorkerSettings(), QueueSettings()).count == 1
    assert Pool(WorkerSettings(runtime="onnx"), QueueSettings()).count == 4  # which computes on the CPU
    assert Pool(WorkerSettings(count=3), QueueSettings()).count == 3


def test_a_worker_opens_models_as_it_is_ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load(path: Path, device: str, threads: int, *, runtime: str, precision: str, smallest: int | None) -> object:
        asked.append((device, threads, runtime, precision, smallest))
        raise ConfigError("enough")

    monkeypatch.setattr("flawmap.deploy.inspector.load", load)
    settings = WorkerSettings(count=1, threads=3, device="cpu", runtime="openvino", precision="bfloat16")
    worker = object.__new__(inspecting._Worker)
    worker.orders = Pool(settings, QueueSettings(), smallest=9).orders
    with pytest.raises(ConfigError, match="enough"):
        worker._open(Path("part.bundle"))
    assert asked == [("cpu", 3, "openvino", "bfloat16", 9)]


def test_an_image_that_memory_does_not_hold_is_refused_and_the_worker_goes_on(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[Any, ...]] = []
    worker = inspecting._Worker(None, Pool(WorkerSettings(count=1), QueueSettings()).orders)  # type: ignore[arg-type]
    worker._send = lambda *message: sent.append(message)  # type: ignore[method-assign]
    inspector = worker.models["part@1"] = flawmap.load(models / "part.bundle", "cpu")
    photos = [inspector.decode(png(number), "image") for number in range(3)]
    inspect_read = inspector.inspect_read

    def too_large(images: Any, *more: Any, **named: Any) -> Any:
        if any(image is photos[1] for image in images):
            raise MemoryError
        return inspect_read(images, *more, **named)

    def unmeasured(*given: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(inspector, "inspect_read", too_large)
    monkeypatch.setattr(inspecting, "_figures", unmeasured)
    ends = time.monotonic() + 60
    tasks = [inspecting.Task(number, "part@1", b"", ends, measure=True) for number in range(3)]
    worker._inspect([inspecting._Read(task, photo, []) for task, photo in zip(tasks, photos, strict=True)])
    assert [message[:2] for message in sent] == [("done", 0), ("failed", 1), ("done", 2)]
    assert sent[1][2:] == ("it does not fit into this machine's memory; cut it into smaller images", 422)
