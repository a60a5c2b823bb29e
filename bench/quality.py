"""Quality against minutes of training, over seeds: trains and evaluates, one result file a run, resumable.

    python bench/quality.py --data DIR --name magnetic_tile --recipe fast --minutes 5,15,60,120 --seeds 0,1,2

A run that has its file in --out is skipped; one that was killed goes on from its last checkpoint when the same command
is given again. The steps for so many minutes follow from the recipe, which is made for 15 minutes of two cores;
--steps sets them by hand. The minutes that are reported are those that the training took, with reading the
images and setting the threshold, over all attempts.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from common import HERE, METRICS, RESULTS, cores, write_result
from flawmap.config import load_recipe
from processes import clock, read_metrics, train_and_evaluate, went_on

RECIPE_MINUTES = 15.0  # what `detect.steps` of a recipe is meant for, on two cores


def steps_for(recipe: str, minutes: float) -> int:
    """Steps of stage 2 that take about so many minutes."""
    return max(1, round(load_recipe(recipe).detect.steps * minutes / RECIPE_MINUTES))


def run(chosen: argparse.Namespace, name: str, minutes: float, seed: int, steps: int) -> dict[str, Any]:
    """Train, evaluate, and collect what a result file holds."""
    chosen.work.mkdir(parents=True, exist_ok=True)
    bundle, report, spent = (chosen.work / f"{name}{end}" for end in (".bundle", ".evaluation", ".seconds"))
    settings = [f"detect.steps={steps}", f"run.seed={seed}", *chosen.settings]
    how = ["--config", chosen.recipe, *(part for setting in settings for part in ("--set", setting))]
    train_and_evaluate(chosen.data, chosen.data, how, bundle, report, spent)
    metrics, provenance = read_metrics(bundle, report)
    result = {
        "name": chosen.name,
        "recipe": chosen.recipe,
        "tag": chosen.tag,
        "seed": seed,
        "wanted_minutes": minutes,
        "steps": load_recipe(bundle / "recipe.toml").detect.steps,  # fewer than asked for where photos are few
        "minutes": round(clock(spent) / 60, 2),
        "resumed": went_on(provenance, clock(spent) / 60),
        "peak_memory_mb": provenance["peak_memory_mb"],
        "trained_on": provenance["trained_on"],
        "trained_by": provenance["machine"],
        "good": metrics["good"],
        "defective": metrics["defective"],
        "metrics": {part: metrics[part] for part in METRICS},
        "kinds": metrics["kinds"],
        "command": " ".join(["flawmap train", chosen.name, *how]),
    }
    if not chosen.keep:
        shutil.rmtree(bundle)
        shutil.rmtree(report)
        spent.unlink(missing_ok=True)
    return result


def result_file(chosen: argparse.Namespace, minutes: float, seed: int) -> str:
    """Name of a run's result, without .json."""
    tag = f"-{chosen.tag}" if chosen.tag else ""
    return f"quality-{chosen.name}-{Path(chosen.recipe).stem}-{minutes:g}min-seed{seed}{tag}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what the data set is called in the results")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--minutes", default="15")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--tag", default="", help="a word for runs with other settings; the table shows them apart")
    parser.add_argument("--steps", type=int, default=0, help="instead of those that follow from the minutes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "bench", help="bundles and checkpoints")
    parser.add_argument("--keep", action="store_true", help="keep bundles and evaluations")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the training is ended too
    for minutes in (float(part) for part in chosen.minutes.split(",")):
        for seed in (int(part) for part in chosen.seeds.split(",")):
            name = result_file(chosen, minutes, seed)
            if (chosen.out / f"{name}.json").exists():
                print(f"{name} is done")
                continue
            steps = chosen.steps or steps_for(chosen.recipe, minutes)
            print(f"{name}: {steps} steps on {cores()} cores", flush=True)
            result = run(chosen, name, minutes, seed, steps)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            write_result(name, "quality", result, device, chosen.out)
            found = ", ".join(f"{part} {value['value']:.3f}" for part, value in result["metrics"].items())
            print(f"{name}: {result['minutes']} min, {found}", flush=True)


if __name__ == "__main__":
    main()
