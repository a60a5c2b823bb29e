"""What every test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests report to nobody; flawmap sees to it by itself


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """A training flushes denormal numbers to zero for its process; the next test gets them back."""
    yield
    import torch

    torch.set_flush_denormal(False)
