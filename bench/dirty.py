"""Training with defective photos among the good ones: what it costs, and whether `flawmap suspects` lists them.

    python bench/dirty.py --data DIR --name kolektor [--shares 0,0.02,0.05,0.1] [--contamination 0.05]
        [--steps 450] [--seeds 0]

A pool of as many defective photos as the largest share needs is drawn by the seed, evenly over the kinds of defect.
They are slipped in as good in that order, and no training is tested on any of them, whatever its share: all are
measured on the same parts. One result file a run, resumable as bench/quality.py.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from defects import arguments, pool, run_all, trained_and_tested
from flawmap.bundle import load_bundle
from flawmap.data.layouts import read_layout
from flawmap.deploy.suspects import suspects


def run(chosen: argparse.Namespace, name: str, share: float, seed: int) -> dict[str, Any]:
    """Train with defective photos among the good, evaluate, and collect what a result file holds."""
    listing = read_layout(chosen.data)
    bad = [sample for sample in listing.test if sample.defective]
    counts = {part: round(part * len(listing.train_good) / (1 - part)) for part in {share, max(chosen.shares)}}
    taken = pool(bad, counts[max(chosen.shares)], seed)
    slipped = taken[: counts[share]]
    rest = [sample for sample in listing.test if sample not in taken and sample.defective is not None]
    as_good = [replace(sample, defective=False, mask=None) for sample in slipped]
    how = ["--set", f"clean.contamination={chosen.contamination}"] if chosen.contamination else []
    bundle, result = trained_and_tested(chosen, name, [*listing.train_good, *as_good], rest, seed, settings=how)
    listed = suspects(load_bundle(bundle), bundle)
    names = [sample.image.resolve().as_posix() for sample in slipped]
    bad_ones = [any(path.endswith("/" + suspect.image) for path in names) for suspect in listed]
    ranks = [number for number, is_bad in enumerate(bad_ones, 1) if is_bad]
    aside = [is_bad for suspect, is_bad in zip(listed, bad_ones, strict=True) if suspect.set_aside]
    return {
        **result,
        "share": share,
        "slipped_in": len(slipped),
        "contamination": chosen.contamination,
        "set_aside": len(aside),
        "set_aside_defective": sum(aside),
        "told_of": len(ranks),  # of up to 256 good photos scores are known, of about 1024 with contamination
        "listed": len(listed),
        "ranks": ranks,
        "precision": sum(rank <= len(ranks) for rank in ranks) / len(ranks) if ranks else None,
    }


def main() -> None:
    meaning = "clean.contamination: the share of photos to set aside as suspicious"
    chosen = arguments(__doc__, "--shares", float, [0.0, 0.02, 0.05, 0.1], "--contamination", meaning)
    largest = 100 * max(chosen.shares)
    aside = f"-aside{100 * chosen.contamination:g}" if chosen.contamination else ""
    run_all(chosen, "dirty", chosen.only or chosen.shares, lambda share: f"{100 * share:g}of{largest:g}{aside}", run)


if __name__ == "__main__":
    main()
