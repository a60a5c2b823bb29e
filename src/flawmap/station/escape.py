"""Escape: the share of defective parts that passed, as far as somebody checked passed parts.

Nobody sees a defect in a part that passed unless the part is looked at again, so that without such checks nothing is
known, and 0 would be a promise that nobody made. What is known comes from passed parts that somebody decided later:
found at the next process, by a customer, or in a sample drawn on purpose. Rejected parts count as defective unless
somebody decided them good; doubtful ones only where somebody decided them defective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flawmap.station.results import Query, Results


@dataclass
class Escape:
    """Counts of parts.

    passed: with the verdict `pass`; checked: of these, decided by somebody; escaped: of these, decided defective;
    caught: rejected or doubtful, and defective as far as is known
    """

    passed: int = 0
    checked: int = 0
    escaped: int = 0
    caught: int = 0

    def add(self, verdict: str, decided: str | None, count: int = 1) -> None:
        """Count parts of one verdict and one last decision, None where nobody decided."""
        if verdict == "pass":
            self.passed += count
            self.checked += count * (decided is not None)
            self.escaped += count * (decided == "reject")
        elif (decided or verdict) == "reject":
            self.caught += count

    @property
    def share(self) -> float | None:
        """Escaped parts among all defective ones; None where no passed part was checked, or none is defective."""
        defective = self.escaped + self.caught
        return self.escaped / defective if self.checked and defective else None

    def facts(self) -> dict[str, Any]:
        """As the API tells it."""
        return {**vars(self), "share": self.share}


UNCHECKED = Escape().facts()


def escape_of(counts: Mapping[str, int], decided: Mapping[tuple[str, str], int]) -> Escape:
    """Escape from counts of parts by verdict, and of those decided by (verdict, last decision)."""
    found = Escape()
    for (verdict, said), count in decided.items():
        found.add(verdict, said, count)
    for verdict in ("pass", "reject"):
        found.add(verdict, None, counts[verdict] - sum(n for (of, _), n in decided.items() if of == verdict))
    return found


def escape_in(results: Results, query: Query) -> Escape:
    """The escape among the recorded parts that a query means."""
    return escape_of(results.counts(query), results.decided(query))
