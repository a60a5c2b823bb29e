"""Walk the chain of the record: one row edited, removed or inserted is found."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from flawmap.errors import StationError
from flawmap.station.record import START, Record, Row, hash_of, head, records

AT_ONCE = 1000  # rows in memory
HASH = re.compile(r"[0-9a-f]{64}")
MOST = 100  # faults listed


@dataclass(frozen=True)
class Audit:
    """What was found.

    whole: no fault; records: rows walked; head: the last hash; faults: a line each, up to MOST; linked: whole but for
    a hash noted earlier, which may be missing
    """

    whole: bool
    records: int
    head: str
    faults: list[str]
    linked: bool

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def audit(record: Record, noted: str | None = None) -> Audit:
    """Check every row and the links between them.

    `noted`: a hash written down at an earlier time; it must still be in the chain. Who can write to the database can
    make a whole new chain, but not one with that hash. Raises StationError (400) where it is no whole hash: one could
    be made to begin alike.
    """
    if noted is not None and not HASH.fullmatch(noted):
        raise StationError(f"{noted[:80]} is no hash of a record; give all its 64 letters, 0 to 9 and a to f", 400)
    faults: list[str] = []
    count, expected, previous, met = 0, 1, START, noted is None or noted == START
    after, ended, last = -(1 << 62), False, None
    while not ended:
        with record.reading() as connection:
            rows = _rows_after(connection, after)
            ended = len(rows) < AT_ONCE
            if ended:  # in the same transaction as the last rows, so that what is appended meanwhile is no fault
                last = connection.execute(sa.select(head.c.seq, head.c.hash)).one_or_none()
        for row in rows:
            after = seq = int(row["seq"])
            if seq > expected:
                gone = f"record {expected} is" if seq == expected + 1 else f"records {expected} to {seq - 1} are"
                faults.append(f"{gone} missing")
            elif seq < expected:
                faults.append(f"record {seq} was inserted")
            elif row["previous"] != previous:
                faults.append(f"record {seq} does not follow from the one before it")
            if hash_of(row) != row["hash"]:
                faults.append(f"record {seq} was edited ({_what(row)})")
            met = met or row["hash"] == noted
            count, expected, previous = count + 1, seq + 1, str(row["hash"])
    if last is None:
        faults.append("the note of the last record is missing")
    elif (last.seq, last.hash) != (expected - 1, previous):
        faults.append(f"the last record should be {last.seq}, and the chain ends with {expected - 1}")
    linked = not faults
    if not met:
        anew = "rows were cut off its end, it was made anew, or the hash is of another record"
        faults.append(f"the hash {noted} is not in this record: {anew}")
    return Audit(not faults, count, previous, faults[:MOST], linked)


def _rows_after(connection: Connection, seq: int) -> list[Row]:
    some = sa.select(records).where(records.c.seq > seq).order_by(records.c.seq).limit(AT_ONCE)
    return [dict(row) for row in connection.execute(some).mappings()]


def _what(row: Row) -> str:
    """What a row is about, in a few words."""
    named = row["part"] or row["model"] or row["who"] or json.dumps(row["body"])[:40]
    return f"{row['kind']} of {row['time']}, {named}"
