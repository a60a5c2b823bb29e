"""After a fork: PyTorch inspects, on one thread; what cannot says so, and nothing waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flawmap

PROGRAM = """
import multiprocessing, sys
sys.path.insert(0, {source!r})
import torch, flawmap
from flawmap.errors import ConfigError
torch.set_num_threads(2)
torch.nn.functional.conv2d(torch.ones(1, 16, 64, 64), torch.ones(16, 16, 3, 3))  # starts the threads
inspector = flawmap.load({bundle!r}, "cpu")
scores = [inspector.inspect({photo!r}).score]

def child(queue):
    queue.put(inspector.inspect({photo!r}).score)
    queue.put(flawmap.load({bundle!r}, "cpu").inspect({photo!r}).score)
    for ask in (lambda: flawmap.load({bundle!r}, "cpu", threads=2), lambda: check_not_forked("onnx")):
        try:
            ask()
        except ConfigError as problem:
            queue.put(str(problem))

from flawmap.devices import check_not_forked
check_not_forked("onnx")  # here it does
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=child, args=(queue,))
process.start()
try:
    scores += [queue.get(timeout=60), queue.get(timeout=60)]
    print(scores[0] == scores[1] == scores[2], max(scores) - min(scores) < 1e-4)
    print(queue.get(timeout=60))
    print(queue.get(timeout=60))
finally:
    process.kill()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_inspects_as_its_parent_and_refuses_what_would_wait_for_ever(
    trained: Path, metal: Path
) -> None:
    photo = sorted((metal / "test").rglob("*.png"))[0]
    source = str(Path(flawmap.__file__).parents[1])
    program = PROGRAM.format(source=source, bundle=str(trained), photo=str(photo))
    told = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    lines = told.stdout.splitlines()
    assert len(lines) == 3, told.stdout + told.stderr
    assert lines[0].endswith("True")
    assert "leave out threads" in lines[1] and "spawn" in lines[1]
    assert lines[2].startswith("onnx does not compute in a forked process") and "spawn" in lines[2]
