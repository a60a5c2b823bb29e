"""A temporary file without a name, for arrays that need not all be in memory. It is gone with the process."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class SpareFile:
    """Lies in `folder` (None: where the system keeps temporary files) and holds at most `limit` bytes.

    The system keeps as much of it in memory as there is room, and gives that memory back when it is needed.
    """

    def __init__(self, folder: Path | None = None, limit: float = float("inf")) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)
        self.limit, self.used = limit, 0

    def keep(self, values: Array) -> int | None:
        """Write an array; the byte it begins at, or None when it is over the limit. OSError: the disk is full."""
        start = self.used
        if start + values.nbytes > self.limit:
            return None
        data = np.ascontiguousarray(values).data.cast("B")
        done = 0
        while done < len(data):
            done += os.pwrite(self.descriptor, data[done:], start + done)
        self.used = start + -(-values.nbytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        return start

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes from byte `start` on."""
        return os.pread(self.descriptor, count, start)

    def mapped(self, values: Array) -> Array:
        """A read-only array equal to `values` that lies in the file. OSError: the disk is full."""
        start = self.keep(values)
        assert start is not None, "a file for mapped arrays has no limit"
        pages = mmap.mmap(self.descriptor, values.nbytes, offset=start, prot=mmap.PROT_READ)
        return np.frombuffer(pages, values.dtype).reshape(values.shape)
