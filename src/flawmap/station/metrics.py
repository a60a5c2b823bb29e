"""Figures for Prometheus: how long verdicts take, what they are, what waits, what was refused, the drift."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flawmap.station.workers import Load

BUCKETS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
GAUGES = {  # by the fields of `Load`
    "waiting": "Images that wait.",
    "running": "Images that workers hold.",
    "limit": "Images that may wait.",
    "workers": "Worker processes there should be.",
    "alive": "Worker processes that can inspect.",
    "replaced": "Worker processes that died since the start.",
}
ESCAPE = (  # fields of `Escape.facts`, and what they are called here
    ("passed", "shift_passed", "Parts that passed in this shift."),
    ("checked", "shift_passes_checked", "Parts that passed in this shift and that somebody decided."),
    ("escaped", "shift_escaped", "Parts that passed in this shift and were decided defective."),
    ("share", "shift_escape", "Escaped parts among this shift's defective ones; NaN where no pass was checked."),
)


class Metrics:
    """The station's figures. `load`, `drift` and `escape` (of the shift) are asked when the figures are read."""

    def __init__(
        self, load: Callable[[], Load], drift: Callable[[], float], escape: Callable[[], Mapping[str, Any]]
    ) -> None:
        self.registry = CollectorRegistry()
        self.verdicts = Counter(
            "flawmap_verdicts", "Parts by verdict and model.", ["verdict", "model"], registry=self.registry
        )
        self.tests = Counter("flawmap_test_parts", "Parts of the test mode.", registry=self.registry)
        self.seconds = Histogram(
            "flawmap_inspection_seconds",
            "From the whole image to its recorded verdict.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.computing = Histogram(
            "flawmap_computing_seconds", "In the worker, of a batch.", buckets=BUCKETS, registry=self.registry
        )
        self.refused = Counter(
            "flawmap_refused", "Images without a verdict, by status of HTTP.", ["status"], registry=self.registry
        )
        self.decisions = Counter("flawmap_decisions", "Of operators.", ["decision"], registry=self.registry)
        for field, about in GAUGES.items():
            gauge = Gauge(f"flawmap_{field}", about, registry=self.registry)
            gauge.set_function(partial(lambda field: float(getattr(load(), field)), field))
        Gauge(
            "flawmap_drift", "How far the last parts are from the good photos, in deviations.", registry=self.registry
        ).set_function(drift)
        for field, name, about in ESCAPE:
            gauge = Gauge(f"flawmap_{name}", about, registry=self.registry)
            gauge.set_function(partial(lambda field: _number(escape()[field]), field))

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
