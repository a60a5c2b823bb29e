"""Detection against the number of real defects learnt from: trains with 0, 1, 5, 10, 20 of them, tests on the others.

    python bench/defects.py --data DIR --name kolektor [--counts 0,1,5,10,20] [--steps 450] [--seeds 0]

A pool of as many defective photos as the largest count is drawn by the seed, evenly over the kinds of defect. It is
learnt from in that order, and no training is tested on any of it, whatever its count: all are measured on the same
parts. One result file a run, resumable as bench/quality.py.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import HERE, METRICS, RESULTS, write_result
from flawmap.data.images import read_shape
from flawmap.data.layouts import Sample, read_layout
from flawmap.data.masks import MaskReader
from processes import clock, read_metrics, train_and_evaluate


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


def trained_and_tested(
    chosen: argparse.Namespace,
    name: str,
    train: Sequence[Sample],
    rest: Sequence[Sample],
    seed: int,
    defects: Sequence[Sample] = (),
    settings: Sequence[str] = (),
) -> tuple[Path, dict[str, Any]]:
    """Train on `train`, and on real `defects` if any, with further `settings`; evaluate on `rest`.

    The bundle, and what every result holds.
    """
    work = chosen.work / name
    work.mkdir(parents=True, exist_ok=True)
    write_split(work / "train.csv", train, "train")
    write_split(work / "test.csv", rest, "test")
    bundle, report, spent = work / "part.bundle", work / "evaluation", work / "seconds"
    how = ["--config", chosen.recipe, "--set", f"run.seed={seed}"]
    how += ["--set", f"detect.steps={chosen.steps}"] if chosen.steps else []
    how += list(settings)
    learnt = []
    if defects:
        write_split(work / "defects.csv", defects, "train")
        learnt = ["--defects", str(work / "defects.csv")]
    data = (work / "train.csv", work / "test.csv")
    train_and_evaluate(*data, [*how, *learnt], bundle, report, spent)
    metrics, provenance = read_metrics(bundle, report)
    return bundle, {
        "name": chosen.name,
        "recipe": chosen.recipe,
        "seed": seed,
        "minutes": round(clock(spent) / 60, 2),
        "trained_on": provenance["trained_on"],
        "good": metrics["good"],
        "defective": metrics["defective"],
        "evidence": provenance["evidence"],
        "metrics": {part: metrics[part] for part in METRICS},
        "kinds": metrics["kinds"],
        "command": " ".join(["flawmap train", chosen.name, *how]),
    }


def _marks_some(sample: Sample) -> bool:
    """Not so one photo of Magnetic Tile, which `flawmap train --defects` refuses; it is tested on all the same."""
    return not sample.masks or bool(MaskReader().read(sample.masks, read_shape(sample.image)).any())


def run(chosen: argparse.Namespace, name: str, count: int, seed: int) -> dict[str, Any]:
    """Train with `count` real defects, evaluate, and collect what a result file holds."""
    listing = read_layout(chosen.data)
    bad = [sample for sample in listing.test if sample.defective and _marks_some(sample)]
    taken = pool(bad, max(chosen.counts), seed)
    rest = [sample for sample in listing.test if sample not in taken and sample.defective is not None]
    _, result = trained_and_tested(chosen, name, listing.train_good, rest, seed, taken[:count])
    return {**result, "real_defects": count, "pool": max(chosen.counts)}


def arguments(
    document: str | None, option: str, kind: type, values: Sequence[float], further: str = "", meaning: str = ""
) -> argparse.Namespace:
    """What the command line says; `option` names the values to run through, `further` one more share, if any."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what the data set is called in the results")
    parser.add_argument("--recipe", default="fast")
    several: Any = {"type": lambda text: [kind(part) for part in text.split(",")]}
    parser.add_argument(option, default=list(values), **several)
    if further:
        parser.add_argument(further, type=float, default=0.0, help=meaning)
    parser.add_argument("--only", help="those of them to run now", **several)
    parser.add_argument("--steps", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "bench")
    return parser.parse_args()


def run_all(
    chosen: argparse.Namespace,
    what: str,
    values: Sequence[float],
    label: Callable[[float], str],
    one: Callable[..., Any],
) -> None:
    """Run `one` for each seed and value that has no result file yet, and write it."""
    for seed in (int(part) for part in chosen.seeds.split(",")):
        for value in values:
            name = f"{what}-{chosen.name}-{chosen.recipe}-{label(value)}-seed{seed}"
            if (chosen.out / f"{name}.json").exists():
                print(f"{name} is done")
                continue
            print(name, flush=True)
            result = one(chosen, name, value, seed)
            write_result(name, what, result, "cuda" if torch.cuda.is_available() else "cpu", chosen.out)
            shutil.rmtree(chosen.work / name)
            found = ", ".join(f"{part} {figure['value']:.3f}" for part, figure in result["metrics"].items())
            print(f"{name}: {result['minutes']} min, {found}", flush=True)


def main() -> None:
    chosen = arguments(__doc__, "--counts", int, [0, 1, 5, 10, 20])
    run_all(chosen, "defects", chosen.only or chosen.counts, lambda count: f"{count}of{max(chosen.counts)}", run)


if __name__ == "__main__":
    main()
