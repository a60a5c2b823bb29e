"""A mask kept as the places where it begins and ends, so that those of many large photos need little memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Bools = np.ndarray[Any, np.dtype[np.bool_]]


class RunMask(NamedTuple):
    """shape: (H, W); changes: (N,) int64, the pixels row by row at which it changes, from unmarked on."""

    shape: tuple[int, int]
    changes: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def of(cls, mask: Bools) -> RunMask:
        """Keep a mask (H, W)."""
        flat = np.ascontiguousarray(mask).reshape(-1)
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        if flat.size and flat[0]:
            changes = np.concatenate([[0], changes])
        return cls((mask.shape[0], mask.shape[1]), changes.astype(np.int64))

    @classmethod
    def none(cls, shape: tuple[int, int]) -> RunMask:
        """A mask of this shape that marks nothing."""
        return cls(shape, np.zeros(0, np.int64))

    def any(self) -> bool:
        """Whether it marks a pixel."""
        return len(self.changes) > 0

    def full(self) -> Bools:
        """The mask (H, W)."""
        flat = np.zeros(self.shape[0] * self.shape[1], np.bool_)
        if len(self.changes):
            flat[self.changes] = True
            np.logical_xor.accumulate(flat, out=flat)
        return flat.reshape(self.shape)
