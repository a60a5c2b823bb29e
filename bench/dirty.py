"""Training with defective photos among the good ones: what it costs, and whether `flawmap suspects` lists them.

    python bench/dirty.py --data DIR --name kolektor [--shares 0,0.02,0.05,0.1] [--steps 450] [--seeds 0]

A pool of as many defective photos as the largest share needs is drawn by the seed, evenly over the kinds of defect.
They are slipped in as good in that order, and no training is tested on any of them, whatever its share: all are
measured on the same parts. One result file a run, resumable as bench/quality.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common import HERE, RESULTS, write_result
from defects import pool, write_split
from flawmap.bundle import load_bundle
from flawmap.data.layouts import read_layout
from flawmap.deploy.suspects import suspects
from quality import METRICS, clock, timed


def run(chosen: argparse.Namespace, name: str, share: float, seed: int) -> dict[str, Any]:
    """Train with defective photos among the good, evaluate, and collect what a result file holds."""
    work = chosen.work / name
    work.mkdir(parents=True, exist_ok=True)
    listing = read_layout(chosen.data)
    bad = [sample for sample in listing.test if sample.defective]
    counts = {part: round(part * len(listing.train_good) / (1 - part)) for part in {share, max(chosen.shares)}}
    taken = pool(bad, counts[max(chosen.shares)], seed)
    slipped = taken[: counts[share]]
    rest = [sample for sample in listing.test if sample not in taken and sample.defective is not None]
    as_good = [replace(sample, defective=False, mask=None) for sample in slipped]
    write_split(work / "train.csv", [*listing.train_good, *as_good], "train")
    write_split(work / "test.csv", rest, "test")
    bundle, report, spent = work / "part.bundle", work / "evaluation", work / "seconds"
    flawmap = [sys.executable, "-m", "flawmap"]
    how = ["--config", chosen.recipe, "--set", f"run.seed={seed}"]
    how += ["--set", f"detect.steps={chosen.steps}"] if chosen.steps else []
    if not bundle.exists():
        timed([*flawmap, "train", str(work / "train.csv"), "--out", str(bundle), *how, "--resume"], spent)
    evaluate = [*flawmap, "evaluate", str(bundle), str(work / "test.csv"), "--out", str(report), "--overwrite"]
    subprocess.run(evaluate, check=True)
    metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    opened = load_bundle(bundle)
    listed = [suspect.image for suspect in suspects(opened, bundle)]
    names = [sample.image.resolve().as_posix() for sample in slipped]
    ranks = [number for number, image in enumerate(listed, 1) if any(path.endswith("/" + image) for path in names)]
    result = {
        "name": chosen.name,
        "recipe": chosen.recipe,
        "seed": seed,
        "share": share,
        "slipped_in": len(slipped),
        "told_of": len(ranks),  # of up to 256 good photos scores are known
        "listed": len(listed),
        "ranks": ranks,
        "precision": sum(rank <= len(ranks) for rank in ranks) / len(ranks) if ranks else None,
        "minutes": round(clock(spent) / 60, 2),
        "trained_on": opened.provenance["trained_on"],
        "good": metrics["good"],
        "defective": metrics["defective"],
        "metrics": {part: metrics[part] for part in METRICS},
        "command": " ".join(["flawmap train", chosen.name, *how[: 4 + 2 * bool(chosen.steps)]]),
    }
    shutil.rmtree(work)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what the data set is called in the results")
    parser.add_argument("--recipe", default="fast")
    shares = {"type": lambda text: [float(part) for part in text.split(",")], "default": [0.0, 0.02, 0.05, 0.1]}
    parser.add_argument("--shares", **shares)
    parser.add_argument("--only", help="those of the shares to run now", **(shares | {"default": None}))
    parser.add_argument("--steps", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "bench")
    chosen = parser.parse_args()
    for seed in (int(part) for part in chosen.seeds.split(",")):
        for share in chosen.only or chosen.shares:
            name = f"dirty-{chosen.name}-{chosen.recipe}-{100 * share:g}of{100 * max(chosen.shares):g}-seed{seed}"
            if (chosen.out / f"{name}.json").exists():
                print(f"{name} is done")
                continue
            print(name, flush=True)
            result = run(chosen, name, share, seed)
            write_result(name, "dirty", result, "cuda" if torch.cuda.is_available() else "cpu", chosen.out)
            found = ", ".join(f"{part} {value['value']:.3f}" for part, value in result["metrics"].items())
            print(f"{name}: {result['minutes']} min, precision {result['precision']}, {found}", flush=True)


if __name__ == "__main__":
    main()
