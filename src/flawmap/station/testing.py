"""Test mode: parts are inspected and kept, and do not count.

They are rows of a kind of their own (`test`), so that no count, report, threshold or comparison can take one in by
oversight. Unless somebody says otherwise, what is answered to their sender has no verdict: whatever acts on verdicts at
a line must not act on a trial. The mode itself is a row of the record too (`mode`), and outlives a restart.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from flawmap.station.record import Entry, Record, Row, records

MODE, PART = "mode", "test"  # kinds of records
# Kinds of rows about tests, by those about parts that count.
KINDS = {"verdict": PART, "late": "test-late", "refused": "test-refused", "batch": "test-batch"}
WITHHELD = ("verdict", "defective", "final")  # what is not answered of a test part


@dataclass(frozen=True)
class TestMode:
    """Whether parts are tests; verdicts: whether their senders are told them; since, by: when, and who said so."""

    __test__ = False  # no test of pytest's

    on: bool = False
    verdicts: bool = False
    since: str | None = None
    by: str | None = None

    def facts(self) -> dict[str, Any]:
        """As the API tells it."""
        return asdict(self)


def last_mode(record: Record) -> TestMode:
    """The mode that was recorded last; off where none was."""
    chosen = sa.select(records).where(records.c.kind == MODE).order_by(records.c.seq.desc()).limit(1)
    with record.reading() as connection:
        row = connection.execute(chosen).mappings().one_or_none()
    return TestMode() if row is None else _mode_of(dict(row))


def record_mode(record: Record, on: bool, verdicts: bool, note: str, who: str) -> TestMode:
    """Record a switch of the mode."""
    body = {"on": on, "verdicts": on and verdicts, "note": note}
    (row,) = record.append([Entry(MODE, body, who=who)])
    return _mode_of(row)


def answered(part: dict[str, Any]) -> dict[str, Any]:
    """A part as its sender is told it: without a verdict where that is withheld."""
    return part | dict.fromkeys(WITHHELD) if part["withheld"] else part


def _mode_of(row: Row) -> TestMode:
    body = json.loads(row["body"])
    return TestMode(body["on"], body["verdicts"], row["time"], row["who"])
