"""What the station's tests call: ports, waiting, drawn parts."""

from __future__ import annotations

import socket
import time
from typing import Any


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_until(fact: object, seconds: float = 60.0) -> None:
    """Until the function `fact` gives something true; a test that waits in vain fails."""
    ends = time.monotonic() + seconds
    while not fact():  # type: ignore[operator]
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.02)


def picture(number: int, height: int = 64, width: int = 80) -> Any:
    """A drawn part (H, W, 3) uint8, another for each number; those with odd hundreds are good."""
    import numpy as np

    rng = np.random.default_rng(number)
    _rows, columns = np.mgrid[:height, :width]
    grey = 120 + 60 * np.sin(columns / 5 + rng.uniform(0, 6)) + rng.normal(0, 6, (height, width))
    if number // 100 % 2 == 0:
        top, left = rng.integers(5, height - 25), rng.integers(5, width - 25)
        grey[top : top + 20, left : left + 20] = 250
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, 2)


def png(number: int, height: int = 64, width: int = 80) -> bytes:
    from flawmap.data.images import encode_png

    return encode_png(picture(number, height, width))
