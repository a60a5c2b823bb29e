"""One job of a benchmark, in a process of its own: `python -m flawmap.benchmark.job FOLDER PARENT`.

Trains (going on where an earlier attempt was stopped), evaluates, times some inspections, keeps the pictures that tell
most, and writes result.json last.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.benchmark.plan import BUNDLE, ERROR, EVALUATION, JOB, RESULT, SECONDS
from flawmap.bundle import Bundle, load_bundle, load_general
from flawmap.config import load_recipe
from flawmap.data.layouts import Listing, read_layout
from flawmap.deploy.batch import report_image
from flawmap.deploy.evaluation import evaluate
from flawmap.deploy.inspector import Inspector
from flawmap.errors import FlawmapError
from flawmap.measure.metrics import escape_at
from flawmap.tables import read_rows
from flawmap.train.loop import write_atomically
from flawmap.train.run import train

OVERKILL = 0.01  # of the good test parts, at which escape is reported
TIMED = 30  # inspections that are timed, at most
SHOWN = ("image", "regions")  # pictures kept of a part, by the captions of a report
EXTREMES = ("best-found", "worst-missed", "worst-false-alarm")


def run_job(folder: Path) -> dict[str, Any]:
    """Do what job.json in `folder` says, and write result.json. Raises FlawmapError for what the user can put right."""
    note = json.loads((folder / JOB).read_text(encoding="utf-8"))
    overrides = [f"run.seed={note['seed']}", f"run.threads={note['threads']}"]
    recipe = load_recipe(note["recipe"], overrides)
    listing = read_layout(note["data"], note["layout"])
    path = folder / BUNDLE
    if path.exists():
        bundle = load_bundle(path)
    else:
        general = load_general(Path(note["general"])) if note["general"] else None
        bundle = train(listing, recipe, path, general=general, resume=True)
    inspector = Inspector(bundle, recipe.run.device)
    evaluation = evaluate(inspector, listing, folder / EVALUATION, protocol=note["protocol"], overwrite=True)
    rows = read_rows(folder / EVALUATION / "images.csv")
    defective = np.array([row["label"] == "defective" for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    result = {
        "category": note["category"],
        "seed": note["seed"],
        "layout": listing.layout,
        "protocol": note["protocol"],
        "trained_on": bundle.provenance["trained_on"],
        "held_out": bundle.provenance["held_out"],
        "metrics": evaluation.to_json(),
        "escape_at_overkill": escape_at(defective, scores, OVERKILL),
        "ms_an_image": milliseconds(inspector, listing),
        "minutes": training_minutes(folder, bundle),
        "peak_memory_mb": bundle.provenance["peak_memory_mb"],
        "machine": bundle.provenance["machine"],
        "flawmap": bundle.provenance["flawmap"],
        "extremes": keep_extremes(inspector, listing, rows, folder),
    }
    write_atomically(folder / RESULT, json.dumps(result, indent=2) + "\n")
    return result


def training_minutes(folder: Path, bundle: Bundle) -> float:
    """Minutes of the training over all attempts, as the process that started them counted."""
    counted = float((folder / SECONDS).read_text(encoding="ascii")) / 60 if (folder / SECONDS).exists() else 0.0
    return round(max(counted, float(bundle.provenance["minutes"])), 2)


def milliseconds(inspector: Inspector, listing: Listing) -> float:
    """Median time from file to verdict of some test images, one at a time, the first thrown away."""
    paths = [sample.image for sample in listing.test]
    paths = paths[:: -(-len(paths) // TIMED)]
    taken = []
    for path in [paths[0], *paths]:
        started = time.perf_counter()
        inspector.inspect(path)
        taken.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(taken[1:]), 1)


def keep_extremes(
    inspector: Inspector, listing: Listing, rows: Sequence[dict[str, str]], folder: Path
) -> dict[str, dict[str, Any]]:
    """Keep the pictures of the defective part of the highest and of the lowest score, and of the worst good one."""
    by_label: dict[str, list[dict[str, str]]] = {"good": [], "defective": []}
    for row in rows:
        by_label[row["label"]].append(row)

    def score(row: dict[str, str]) -> float:
        return float(row["score"])

    chosen = (max(by_label["defective"], key=score), min(by_label["defective"], key=score))
    kept = {}
    for name, row in zip(EXTREMES, (*chosen, max(by_label["good"], key=score)), strict=True):
        shown = report_image(row["image"], inspector.inspect(listing.root / row["image"]))
        files = {}
        for caption, picture in shown.pictures:
            if caption in SHOWN:
                files[caption] = f"{name}-{caption}.jpg"
                (folder / files[caption]).write_bytes(picture)
        kept[name] = {
            "image": row["image"],
            "kind": row["kind"],
            "score": score(row),
            "verdict": shown.verdict,
            "pictures": files,
        }
    return kept


def _end_with(parent: int) -> None:
    """End this process once the one that started it is gone: a new run would train in the same folder."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(folder: Path, parent: int) -> int:
    """Exit code of the job in `folder`, started by the process `parent`; what went wrong is in error.txt."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        run_job(folder)
        return 0
    except FlawmapError as problem:
        message = str(problem)
    except Exception as problem:
        import traceback

        traceback.print_exc()
        message = f"{type(problem).__name__}: {problem}".splitlines()[0]
    write_atomically(folder / ERROR, message + "\n")
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; who started this one ends it
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
