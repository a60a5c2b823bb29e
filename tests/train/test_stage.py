"""A stage of a training loses little when it is stopped, writes nothing twice, and goes on to the same weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flawmap.config import RunSettings
from flawmap.errors import CheckpointError
from flawmap.train import loop
from flawmap.train.replay import Replay

TOTAL, KEPT = 12, 4
PICTURES, MASKS = (2, 3, 4, 4), (2, 5, 7)  # of a batch; masks whose rows are no whole bytes
Steps = Callable[[int], object]


class Run:
    """A small training with replay: its end follows from all it saw."""

    def __init__(self, folder: Path, *, seconds: float = 0.0, resume: bool = False, quiet: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Conv2d(3, 2, 1)
        self.optimizer = loop.adam(self.model.parameters(), 1e-2, torch.device("cpu"))
        self.generator = loop.seeded(0, 1)
        self.replay = Replay(KEPT, PICTURES, MASKS, torch.device("cpu"))
        self.stage = loop.Stage(
            "detect", TOTAL, 2, folder=folder, settings=RunSettings(checkpoint_seconds=seconds),
            modules={"model": self.model}, optimizer=self.optimizer, generator=self.generator, pool=self.replay,
            resume=resume, quiet=quiet,
        )  # fmt: skip

    def learn(self, after: Steps = lambda step: None) -> list[Tensor]:
        for step in self.stage:
            pictures = torch.rand(PICTURES, generator=self.generator)
            masks = [torch.rand(MASKS, generator=self.generator) < 0.5 for _ in range(2)]
            self.replay.put(step, pictures, *masks)
            seen, mask, unsure = self.replay.draw(step, self.generator)
            loss = self.model(seen).square().mean() * (1 + mask.float().mean() + 2 * unsure.float().mean())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.stage.report(step, {"loss": loss})
            after(step)
        return [value.clone() for value in self.model.state_dict().values()]


class Killed(BaseException):
    """As a kill: nothing is saved any more."""


def kill_after(last: int) -> Steps:
    def after(step: int) -> None:
        if step == last:
            raise Killed

    return after


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kills", [[0], [1], [3], [6], [11], [2, 5, 6, 10], [*range(12)]])
def test_a_killed_stage_with_a_pool_goes_on_to_the_same_weights(kills: list[int], tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole").learn()
    for number, last in enumerate(kills):
        with pytest.raises(Killed):
            Run(tmp_path / "killed", resume=number > 0).learn(kill_after(last))
    assert same(Run(tmp_path / "killed", resume=True).learn(), whole)


def test_a_batch_of_the_pool_is_written_once_and_kept_while_it_may_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, int]] = []
    save = loop.save_state

    def saving(path: Path, tensors: dict[str, Tensor], notes: dict[str, object]) -> None:
        save(path, tensors, notes)
        written.append((path.name, len(tensors["pictures"]) if "pictures" in tensors else 0))
        assert not any(name.startswith(("extra.", "replay")) for name in tensors)

    monkeypatch.setattr(loop, "save_state", saving)
    run = Run(tmp_path / "run")

    def after(step: int) -> None:
        files = list((tmp_path / "run").glob("detect.pool-*"))
        assert len(files) <= min(step, KEPT), "what nothing draws from any more is removed"

    run.learn(after)
    assert sum(count for name, count in written if ".pool-" in name) == TOTAL * PICTURES[0]
    assert len([name for name, _ in written if name == "detect.safetensors"]) == TOTAL


def test_masks_of_a_pool_take_a_bit_a_pixel_and_come_back(tmp_path: Path) -> None:
    pool, other = (Replay(KEPT, PICTURES, MASKS, torch.device("cpu")) for _ in range(2))
    for step in range(7):
        masks = [torch.rand(MASKS, generator=loop.seeded(step, 3 + part)) < 0.5 for part in range(2)]
        pool.put(step, torch.rand(PICTURES, generator=loop.seeded(step, 2)), *masks)
    packed = pool.packed(3, 7)
    assert packed["masks"].shape == (8, 5, 1) and packed["masks"].dtype == torch.uint8
    other.unpack(3, 7, packed)
    for name, buffer in other.buffers.items():
        assert torch.equal(buffer, pool.buffers[name])


def test_a_checkpoint_of_an_earlier_flawmap_which_held_the_whole_pool_goes_on_too(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole").learn()
    old = Run(tmp_path / "old")
    with pytest.raises(Killed):
        old.learn(kill_after(7))
    tensors, notes = loop.load_state(tmp_path / "old" / "detect.safetensors")
    assert notes["step"] == 7
    again = Run(tmp_path / "again", resume=False)
    with pytest.raises(Killed):
        again.learn(kill_after(6))  # as step 7 begins
    tensors |= {f"extra.{name}": buffer for name, buffer in again.replay.buffers.items()}
    for file in (tmp_path / "old").glob("*.safetensors"):
        file.unlink()
    loop.save_state(tmp_path / "old" / "detect.safetensors", tensors, {"step": 7, "total": TOTAL})
    with pytest.raises(Killed):
        Run(tmp_path / "old", resume=True).learn(kill_after(9))
    assert same(Run(tmp_path / "old", resume=True).learn(), whole)


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_file_of_the_pool_is_named(damage: str, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        Run(tmp_path / "run").learn(kill_after(6))
    file = sorted((tmp_path / "run").glob("detect.pool-*"))[0]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"pool-.* is not a readable checkpoint"):
        Run(tmp_path / "run", resume=True)


def press(times: int = 1) -> Steps:
    def after(step: int) -> None:
        if step == 5:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return after


@contextmanager
def python_handles_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "it is put back"
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_loses_no_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Run(tmp_path / "whole").learn()
    with python_handles_interrupts():
        with pytest.raises(KeyboardInterrupt):
            Run(tmp_path / "run", seconds=3600, quiet=False).learn(press())
        assert loop.load_state(tmp_path / "run" / "detect.safetensors")[1]["step"] == 6
        assert "stopping after this step" in capsys.readouterr().err
        assert same(Run(tmp_path / "run", seconds=3600, resume=True, quiet=False).learn(), whole)
    assert f"detect goes on after step 6 of {TOTAL}" in capsys.readouterr().err


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    with python_handles_interrupts(), pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "run", seconds=3600).learn(press(2))
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_whoever_handles_interrupts_goes_on_to_do_so(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        Run(tmp_path / "run").learn(press())
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_where_nobody_looks_on_a_line_comes_after_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    Run(tmp_path / "run", quiet=False).learn(lambda step: lines.append(capsys.readouterr().err))
    assert lines[:2] == ["", lines[1]] and lines[1].startswith(f"detect 1/{TOTAL} ")
    assert not any(lines[2:-1]), "then one in half a minute"
    assert lines[-1].startswith(f"detect {TOTAL}/{TOTAL}  loss ")


def test_no_more_than_half_a_minute_of_work_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 7 s here: a checkpoint is written before it would be later than 30 s."""
    assert RunSettings().checkpoint_seconds == 30
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    saved: list[int] = []

    def after(step: int) -> None:
        now[0] += 7.0

    run = Run(tmp_path / "run", seconds=30)
    save = run.stage.save
    monkeypatch.setattr(run.stage, "save", lambda step: (saved.append(step), save(step)))
    run.learn(after)
    assert saved == [4, 8, 12]
