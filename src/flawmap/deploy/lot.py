"""All parts of an inspection judged as one lot: what is rejected so that few of the rejected are good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flawmap.errors import BundleError, DataError
from flawmap.measure.conformal import false_discoveries, fewest_rejected
from flawmap.tables import TableWriter

FILE = "lot.csv"


def check_lot(good_scores: Sequence[float], parts: int, rate: float, say: Callable[[str], object]) -> None:
    """Raises BundleError for a bundle that knows no good parts; says when they are few for a lot of so many parts."""
    if not good_scores:
        raise BundleError(
            "the bundle holds no scores of good images, as it was imported; a lot cannot be judged with it"
        )
    fewest = fewest_rejected(len(good_scores), parts, rate)
    if fewest > 1:
        rejected = (
            f"fewer than {fewest} of {parts} parts are never rejected" if fewest <= parts else "none is ever rejected"
        )
        say(
            f"{len(good_scores)} good images are few for this lot, of which {rejected}; train with more, or accept a "
            "larger share"
        )


def judge_lot(p_values: Mapping[str, float], rate: float, out: Path | None) -> str:
    """A line that says how many of the parts are rejected; with `out`, which, in its lot.csv.

    Raises DataError when that cannot be written.
    """
    rejected = false_discoveries(list(p_values.values()), rate)
    if out is not None:
        try:
            with (out / FILE).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                writer = TableWriter(file)
                writer.writerow(["image", "p_value", "rejected"])
                for (image, value), verdict in zip(p_values.items(), rejected, strict=True):
                    writer.writerow([image, value, str(verdict).lower()])
        except OSError as problem:
            raise DataError(f"cannot write {out / FILE}: {problem.strerror}") from problem
    count = f"{sum(rejected)} of {len(rejected)} parts"
    line = f"as a lot: {count} rejected, at most {100 * rate:.3g} % of them good on average"
    return line if out is None else f"{line}; {out / FILE}"
