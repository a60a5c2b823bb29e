"""Whether more good parts are rejected than the threshold promised, from what somebody decided about rejected parts.

Only a part that somebody decided good can be called good. Most parts that pass are never decided, so the share of
rejected ones among those decided says nothing about all good parts. A bound does: rejected parts that somebody decided
good, out of all parts that may be good, which are all but those decided defective. Where even this share is larger than
promised by more than chance, good parts are unlike the photos that set the threshold (measure/exchangeability.py).
Where most parts are rejected and nobody has decided why, that alone is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flawmap.measure.exchangeability import chance_of
from flawmap.measure.threshold import promised_share
from flawmap.station.models import Version, last_switch
from flawmap.station.results import Query, Results

LEVEL = 1e-4  # stricter than for one test set: a station looks again and again as parts come
MOST = 0.5  # of the parts rejected, beyond which it is said without a decision
UNKNOWN = {
    "parts": 0, "rejected": 0, "decided_good": 0, "escaped": 0, "promised": None, "verdict": "unknown",
    "sentence": "the model does not know the scores of its good photos",
}  # fmt: skip


@dataclass
class Rejected:
    """Parts by one model version, those it rejected, and how many of the rejected were decided good and defective.

    escaped: parts it passed that were decided defective; these are no good parts either
    """

    parts: int = 0
    rejected: int = 0
    good: int = 0
    defective: int = 0
    escaped: int = 0

    def add(self, part: dict[str, Any]) -> None:
        """One more part, as the API tells it."""
        self.parts += 1
        decided = None if part["decision"] is None else part["decision"]["verdict"]
        if part["verdict"] == "reject":
            self.rejected += 1
            self.good += decided == "pass"
            self.defective += decided == "reject"
        self.escaped += part["verdict"] == "pass" and decided == "reject"


def promise_of(counted: Rejected, version: Version | None) -> dict[str, Any]:
    """Compare rejected parts with what the version's threshold promised.

    parts, rejected, decided_good, escaped: counts; promised: the share of good parts that it was to reject at most,
    None where that is not known; verdict: `broken`, `mostly rejected`, `no sign` or `unknown`; sentence: what to make
    of it
    """
    photos = () if version is None else version.held_out_scores
    if version is None or version.threshold is None or not photos:
        known = {"parts": counted.parts, "rejected": counted.rejected, "decided_good": counted.good}
        return {**UNKNOWN, **known, "escaped": counted.escaped}
    threshold, may_be_good = version.threshold, counted.parts - counted.defective - counted.escaped
    photos_above = sum(score > threshold.score for score in photos)
    promised = photos_above / len(photos)  # of a threshold that a user gave, which promises nothing
    if threshold.method != "given":
        promised = promised_share(threshold.overkill, len(photos), version.groups, version.tail)

    def chance(above: int, share: float) -> float:
        return chance_of(above, may_be_good, photos_above, len(photos), share)

    if chance(counted.good, promised) < LEVEL:
        verdict = "broken"
        sentence = (
            f"{counted.good} of {counted.parts} parts were rejected and then decided good, where {100 * promised:.3g} "
            "% at most were expected: they are unlike the good photos trained on; add photos of their kind, or check "
            "light and position"
        )
    elif chance(counted.rejected - counted.defective, max(MOST, promised)) < LEVEL:
        verdict = "mostly rejected"
        sentence = (
            f"{counted.rejected} of {counted.parts} parts were rejected; decide some of them: if they are good, they "
            "are unlike the good photos trained on"
        )
    else:
        verdict, sentence = "no sign", "no more good parts are known to be rejected than expected"
    return {
        "parts": counted.parts,
        "rejected": counted.rejected,
        "decided_good": counted.good,
        "escaped": counted.escaped,
        "promised": promised,
        "verdict": verdict,
        "sentence": sentence,
    }


def promise_now(results: Results, version: Version, since: str) -> dict[str, Any]:
    """The same of the parts since a recorded time, or since this version came into use if that is later."""
    query = Query(since=max(since, last_switch(results.record) or ""))
    decided = results.decided_rejects(Query(since=query.since, model=version.ref))
    counted = Rejected(
        parts=results.count(query),  # also the few that other loaded models inspected: the bound stays one
        rejected=sum(decided.values()),
        good=decided.get("pass", 0),
        defective=decided.get("reject", 0),
        escaped=results.decided(query).get(("pass", "reject"), 0),
    )
    return promise_of(counted, version)
