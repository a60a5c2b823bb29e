"""A new model beside the one in use: both inspect recorded parts, and where they differ is counted and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flawmap.errors import FlawmapError
from flawmap.station.inspecting import Outcome
from flawmap.station.results import Query, Results
from flawmap.station.workers import Pool

SHOWN = 60  # parts of a comparison
DEADLINE_S = 600.0  # of an inspection that waits behind the line's

Sums = dict[str, Any]


def begun(total: int, against: str) -> Sums:
    """A comparison before its first part. against: the ref of the model in use."""
    return {
        "state": "running", "why": "", "done": 0, "total": total, "against": against, "agree": 0, "changed": 0,
        "decided": 0, "right_new": 0, "right_current": 0, "new_rejects": 0, "new_passes": 0, "parts": [],
    }  # fmt: skip


def recorded(results: Results, count: int, decided_only: bool) -> Iterator[dict[str, Any]]:
    """Recorded parts with their pictures, those that were decided first."""
    seen: set[str] = set()
    for decided in (True,) if decided_only else (True, None):
        after: int | None = None
        while len(seen) < count:
            page, after = results.page(Query(decided=decided), limit=min(count, 500), after=after)
            for part in page:
                if part["kept"] and part["id"] not in seen and len(seen) < count:
                    seen.add(part["id"])
                    yield part
            if after is None:
                break


def compare(
    pool: Pool, results: Results, refs: tuple[str, str], parts: list[dict[str, Any]],
    verdict: Callable[[float, float], str], sums: Sums, told: Callable[[Sums], object],
) -> None:  # fmt: skip
    """Inspect `parts` by two loaded models, the one in use and the new one, into `sums`; `told` hears of every part.

    `verdict`: of a score and a threshold. What goes wrong ends it, and is told in `sums`.
    """
    try:
        for part in parts:
            file = results.pictures.original(part["id"])
            if file is not None:
                data = file.read_bytes()
                jobs = [pool.submit(ref, data, DEADLINE_S, later=True) for ref in refs]
                old, new = (job.done.result(DEADLINE_S) for job in jobs)
                _count(sums, part, old, new, [verdict(one.score, one.threshold or 0.0) for one in (old, new)])
            sums["done"] += 1
            told(sums)
        sums["state"] = "done"
    except (FlawmapError, OSError) as problem:  # OSError: a picture thinned out meanwhile, or no answer in time
        sums.update(state="failed", why=str(problem) or "no answer in time")
    told(sums)


def _count(sums: Sums, part: dict[str, Any], old: Outcome, new: Outcome, verdicts: list[str]) -> None:
    """One more part of a comparison."""
    changed = old.defective != new.defective
    sums["changed" if changed else "agree"] += 1
    if changed:
        sums["new_rejects" if new.defective else "new_passes"] += 1
        if len(sums["parts"]) < SHOWN:
            scores = [
                {"score": one.score, "verdict": verdict} for one, verdict in zip((old, new), verdicts, strict=True)
            ]
            entry = {"id": part["id"], "final": part["final"], "current": scores[0], "new": scores[1]}
            sums["parts"].append({**entry, "links": part["links"]})
    if part["decision"] is not None:
        bad = part["final"] == "reject"
        sums["decided"] += 1
        sums["right_current"] += old.defective == bad
        sums["right_new"] += new.defective == bad
