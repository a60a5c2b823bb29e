"""Detection against the number of real defects learnt from: trains with 0, 1, 5, 10, 20 of them, tests on the others.

    python bench/defects.py --data DIR --name kolektor [--counts 0,1,5,10,20] [--steps 450] [--seeds 0]

A pool of as many defective photos as the largest count is drawn by the seed, evenly over the kinds of defect. It is
learnt from in that order, and no training is tested on any of it, whatever its count: all are measured on the same
parts. One result file a run, resumable as bench/quality.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import HERE, RESULTS, write_result
from flawmap.data.layouts import Sample, read_layout
from quality import METRICS, clock, timed


def pool(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """`count` of the samples, kinds in turn, each kind in an order drawn by `seed`."""
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[Sample]] = {}
    for index in rng.permutation(len(samples)):
        kinds.setdefault(samples[index].kind, []).append(samples[index])
    chosen: list[Sample] = []
    names = sorted(kinds)
    if count > len(samples):
        sys.exit(f"{count} real defects are wanted of {len(samples)}; give smaller --counts")
    while len(chosen) < count:
        for name in names:
            if kinds[name] and len(chosen) < count:
                chosen.append(kinds[name].pop())
    return chosen


def write_split(file: Path, samples: Sequence[Sample], split: str) -> None:
    """A csv that flawmap reads, with paths from the root."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "split", "label", "mask"])
        for sample in samples:
            label = sample.kind if sample.defective else "good"
            mask = sample.mask.resolve() if sample.mask else ""
            writer.writerow([sample.image.resolve(), split, label, mask])


def run(chosen: argparse.Namespace, name: str, count: int, seed: int) -> dict[str, Any]:
    """Train with `count` real defects, evaluate, and collect what a result file holds."""
    work = chosen.work / name
    work.mkdir(parents=True, exist_ok=True)
    listing = read_layout(chosen.data)
    bad = [sample for sample in listing.test if sample.defective]
    taken = pool(bad, max(chosen.counts), seed)
    rest = [sample for sample in listing.test if sample not in taken and sample.defective is not None]
    write_split(work / "train.csv", listing.train_good, "train")
    write_split(work / "test.csv", rest, "test")
    bundle, report, spent = work / "part.bundle", work / "evaluation", work / "seconds"
    flawmap = [sys.executable, "-m", "flawmap"]
    how = ["--config", chosen.recipe, "--set", f"run.seed={seed}"]
    how += ["--set", f"detect.steps={chosen.steps}"] if chosen.steps else []
    if count:
        write_split(work / "defects.csv", taken[:count], "train")
        how += ["--defects", str(work / "defects.csv")]
    if not bundle.exists():
        timed([*flawmap, "train", str(work / "train.csv"), "--out", str(bundle), *how, "--resume"], spent)
    evaluate = [*flawmap, "evaluate", str(bundle), str(work / "test.csv"), "--out", str(report), "--overwrite"]
    subprocess.run(evaluate, check=True)
    metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    provenance = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["provenance"]
    result = {
        "name": chosen.name,
        "recipe": chosen.recipe,
        "seed": seed,
        "real_defects": count,
        "pool": max(chosen.counts),
        "minutes": round(clock(spent) / 60, 2),
        "trained_on": provenance["trained_on"],
        "good": metrics["good"],
        "defective": metrics["defective"],
        "evidence": provenance["evidence"],
        "metrics": {part: metrics[part] for part in METRICS},
        "kinds": metrics["kinds"],
        "command": " ".join(["flawmap train", chosen.name, *how[: 4 + 2 * bool(chosen.steps)]]),
    }
    shutil.rmtree(work)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what the data set is called in the results")
    parser.add_argument("--recipe", default="fast")
    counts = {"type": lambda text: [int(part) for part in text.split(",")], "default": [0, 1, 5, 10, 20]}
    parser.add_argument("--counts", **counts)
    parser.add_argument("--only", help="those of the counts to run now", **(counts | {"default": None}))
    parser.add_argument("--steps", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "bench")
    chosen = parser.parse_args()
    for seed in (int(part) for part in chosen.seeds.split(",")):
        for count in chosen.only or chosen.counts:
            name = f"defects-{chosen.name}-{chosen.recipe}-{count}of{max(chosen.counts)}-seed{seed}"
            if (chosen.out / f"{name}.json").exists():
                print(f"{name} is done")
                continue
            print(name, flush=True)
            result = run(chosen, name, count, seed)
            write_result(name, "defects", result, "cuda" if torch.cuda.is_available() else "cpu", chosen.out)
            found = ", ".join(f"{part} {value['value']:.3f}" for part, value in result["metrics"].items())
            print(f"{name}: {result['minutes']} min, {found}", flush=True)


if __name__ == "__main__":
    main()
