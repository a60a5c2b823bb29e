"""How old pictures are, by a clock that leaps: retention counts time that was worked, in the record's order.

A clock 40 days ahead, for a moment or for good, must not cost the pictures of 40 days. So between two looks at the
pictures no more time counts than passed by the monotonic clock, and across a restart no more than AWAY_S; what is
beyond that is a leap, noted with the last row that the record had then. The age of a part recorded up to that row is
its age by the clock less the leap. A clock that is set back is a leap, too, so that one ahead and set right again costs
and saves nothing. Where nothing was noted yet, the times in the record tell the leaps.

A station that was off for a month keeps its pictures for that month longer; `keep.gigabytes` bounds them all the same.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from flawmap.station.files import DAY, write_whole
from flawmap.station.record import Record, head, records

log = logging.getLogger("flawmap.station")
FILE = "clock.json"
AWAY_S = float(DAY)  # of the time between two runs, or two parts, that counts
SLACK_S = 60.0  # by which two clocks may differ between two looks
MOST = 200  # leaps remembered


@dataclass(frozen=True)
class Leap:
    """The clock went `seconds` further than time did, when the record's last row was `seq`."""

    seq: int
    seconds: float


class Clock:
    """The leaps of the clock, kept in the folder `data`. One thread at a time."""

    def __init__(self, record: Record, data: Path) -> None:
        self.record, self.file = record, data / FILE
        self.leaps: list[Leap] = []
        self._wall: float | None = None  # at the last look
        self._steady: float | None = None  # the monotonic clock then, None where that was in another run

    def look(self, at: float | None = None, steady: float | None = None) -> Sequence[Leap]:
        """The leaps up to now. `at`, `steady`: the time in seconds, by the clock and by the monotonic one.

        Raises SQLAlchemyError, and OSError where the note cannot be written.
        """
        at = time.time() if at is None else at
        steady = time.monotonic() if steady is None else steady
        if self._wall is None:
            self._open()
        last = self._last()
        if self._wall is not None:
            went = at - self._wall
            allowed = AWAY_S if self._steady is None else steady - self._steady + SLACK_S
            counts = min(max(went, 0.0), allowed)
            if abs(went - counts) > SLACK_S:
                log.error("the clock leapt by %+.1f hours; it costs no pictures", (went - counts) / 3600)
                self.leaps = [*self.leaps, Leap(last, went - counts)][-MOST:]
        self._wall, self._steady = at, steady
        note = {"wall": at, "leaps": [asdict(leap) for leap in self.leaps]}
        write_whole(self.file, json.dumps(note).encode(), sync=False)
        return self.leaps

    def _open(self) -> None:
        try:
            note = json.loads(self.file.read_bytes())
            self._wall = float(note["wall"])
            self.leaps = [Leap(int(leap["seq"]), float(leap["seconds"])) for leap in note["leaps"]]
        except (OSError, ValueError, KeyError, TypeError):
            self._wall, self.leaps = self._recorded()

    def _last(self) -> int:
        with self.record.reading() as connection:
            return int(connection.execute(sa.select(head.c.seq)).scalar() or 0)

    def _recorded(self) -> tuple[float | None, list[Leap]]:
        """The time of the last row, and the leaps between one row and the next, in the record's order."""
        leaps: list[Leap] = []
        before: float | None = None
        seq_before = 0
        with self.record.reading() as connection:
            chosen = sa.select(records.c.seq, records.c.time).order_by(records.c.seq)
            for seq, text in connection.execution_options(yield_per=10_000).execute(chosen):
                at = datetime.datetime.fromisoformat(text).timestamp()
                if before is not None:
                    beyond = at - before - min(max(at - before, 0.0), AWAY_S)
                    if abs(beyond) > SLACK_S:
                        leaps.append(Leap(seq_before, beyond))
                before, seq_before = at, seq
        return before, leaps[-MOST:]
