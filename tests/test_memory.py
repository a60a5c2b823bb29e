"""Keeping freed memory: on glibc it takes effect, measured by page faults; elsewhere it says no."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from flawmap import memory

FAULTS = """
import resource, sys
from flawmap.memory import keep_freed_memory
import numpy as np
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    return np.ones(1 << 23)  # 64 MiB, more than glibc keeps by itself
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_taken_again_costs_no_page_faults() -> None:
    kept, handed_back = faults("keep"), faults("leave")
    assert kept < 100, kept
    assert handed_back > 5 * kept + 100, "20 times 64 MiB, in pages or in huge ones"


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
