"""The stack that signal handlers run on, put back after a library that leaves a freed one behind.

OpenVINO's CPU plugin gives each Core a signal stack of its own and frees it with the Core. Of two Cores that go in the
order they came the second one puts the first one's stack back, which is gone by then, and the next Ctrl-C or SIGTERM
kills the process. A Core whose stack is not in place when it goes leaves what is there alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Leave this thread with the signal stack it came with. Does nothing but on Linux."""
    if not sys.platform.startswith("linux"):
        yield
        return
    sigaltstack, before = ctypes.CDLL(None).sigaltstack, _Stack()
    known = sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            sigaltstack(ctypes.byref(before), None)
