"""Requests that are sent again: what the record knows a sender's Idempotency-Key by, and the claim of a batch.

A key names one request of its sender: a part, or a batch of them. Tests have keys of their own, so that a trial with a
serial number as its key leaves that number free for the part that counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flawmap.errors import StationError
from flawmap.station.access import Who
from flawmap.station.files import new_id
from flawmap.station.record import Entry, Row
from flawmap.station.testing import KINDS
from flawmap.station.workers import late

if TYPE_CHECKING:
    from flawmap.station.station import Request, Station

log = logging.getLogger("flawmap.station")
BATCH = "batch"  # kind of the row that claims a key for a batch
BATCHES = (BATCH, KINDS[BATCH])


def once_of(sender: str, key: str, test: bool, place: int | None = None) -> str:
    """What the record knows a request by; `place`: of an image in a batch.

    Neither names nor keys hold a tab, so that no key of one kind is taken for one of another.
    """
    once = f"{sender}:{key}"
    if test:
        once = f"\ttest\t{_hash(once)}"
    return once if place is None else f"\tbatch\t{_hash(f'{once}{chr(9)}{place}')}"


def refusal(key: str | None, first: Row, other: Sequence[str]) -> StationError:
    """What is answered where a key was used for another request, which the row `first` is of."""
    part: dict[str, Any] = {}
    if first["kind"] in BATCHES:
        count = len(json.loads(first["body"])["images"])
        what = f"{'a batch' if other == ['request'] else 'another batch,'} of {count} image{'s' * (count != 1)}"
    else:
        what, part = f"another {' and '.join(other)}, part {first['part']}", {"part": str(first["part"])}
    text = f"the Idempotency-Key {key} was used for {what}; give each request a key of its own"
    return StationError(text, 422, code="key-reused", **part)


def refused_body(key: str | None, first: Row, other: Sequence[str]) -> dict[str, Any]:
    """What is recorded of a request that was refused so."""
    return {"why": "key-reused", "key": key, "other": list(other), "first": first["part"]}


async def claim(station: Station, asked: Request, who: Who, digests: Sequence[str]) -> None:
    """Claim the key of a batch for its images, by their SHA-256 in order, before the first of them is inspected.

    The same batch sent again finds its own claim. Raises StationError: 422 where the key was used for another request,
    504 where the record does not answer in time; both are in the record for each image, as for a part.
    """
    assert asked.key is not None
    test = station.test.on or asked.test
    began, allowed_s = time.monotonic(), station.deadline_of(asked)

    def entry(of: str, body: dict[str, Any], digest: str | None = None, once: str | None = None) -> Entry:
        return Entry(
            KINDS[of] if test else of, body, part=None if digest is None else new_id(), model=asked.model,
            image_sha256=digest, who=who.name, camera=asked.camera or who.name, lot=asked.lot, once=once,
        )  # fmt: skip

    body = {"key": asked.key, "images": list(digests), "model": asked.model}
    pending = station.record.submit(entry(BATCH, body, once=once_of(who.name, asked.key, test)))
    try:
        first = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(pending)), allowed_s)
    except TimeoutError:
        pending.cancel()
        seconds = round(time.monotonic() - began, 3)
        about = {"deadline_s": allowed_s, "after_s": seconds, "step": "record", "found": {}, "key": asked.key}
        log.warning("late: a batch of %d images of %s (record)", len(digests), asked.camera or who.name)
        for digest in digests:
            station.record_surely(entry("late", about | {"recorded": None}, digest))
        raise late(allowed_s, "record") from None
    if first["kind"] not in BATCHES:
        other = ["request"]
    else:
        known = json.loads(first["body"])
        other = [name for name in ("images", "model") if known[name] != body[name]]
    if other:
        refused = refused_body(asked.key, first, other)
        each = [station.record_surely(entry("refused", refused, digest)) for digest in digests]
        left = max(0.0, began + allowed_s - time.monotonic())  # they are recorded in any case, later then
        await asyncio.wait([asyncio.wrap_future(one) for one in each], timeout=left)
        station.metrics.refused.labels("422").inc()
        raise refusal(asked.key, first, other)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
