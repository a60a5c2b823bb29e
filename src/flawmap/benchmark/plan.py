"""What a benchmark is to do, and what is kept of it: a folder a category and seed, which makes it resumable.

OUT/plan.json  recipe.toml             what all jobs share; another run with the same OUT must agree with it
OUT/CATEGORY/seedN/job.json            what one job is to do
                   part.bundle         what it trained
                   evaluation/         as `flawmap evaluate` writes it
                   result.json         written last: a job that has it is done and never run again
                   log.txt  error.txt  what it printed, and why it failed
OUT/index.html  table.md  table.csv  results.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawmap.bundle import sha256
from flawmap.config import Recipe, dump_recipe
from flawmap.data.categories import find_categories
from flawmap.data.layouts import Listing
from flawmap.errors import ConfigError, DataError, first_line
from flawmap.measure.evaluate import MAP_SIZES

PLAN, RECIPE = "plan.json", "recipe.toml"
JOB, RESULT, ERROR, LOG, BUNDLE, EVALUATION, SECONDS = (
    "job.json", "result.json", "error.txt", "log.txt", "part.bundle", "evaluation", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One category trained and evaluated with one seed, in a folder of its own."""

    category: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """How a job is called on the terminal."""
        return f"{self.category}, seed {self.seed}"

    def result(self) -> dict[str, Any] | None:
        """What it came to; None when it is not done. Raises DataError for a file that is not a result."""
        file = self.folder / RESULT
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return found
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError) as problem:
            raise DataError(f"{file} cannot be read; delete it to run {self.name} again") from problem

    def error(self) -> str:
        """Why it failed, in one line; empty when it did not."""
        file = self.folder / ERROR
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.exists() else ""


def choose_categories(root: Path, layout: str, wanted: Sequence[str]) -> tuple[dict[str, Listing], list[str]]:
    """(categories of `root`, or the `wanted` ones, notes). Raises LayoutError, and ConfigError for one not there."""
    found, notes = find_categories(root, layout)
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise ConfigError(f"no category {', '.join(unknown)} in {root}; there are: {', '.join(found)}")
    return ({name: found[name] for name in wanted} if wanted else found), notes


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers, each once. Raises ConfigError."""
    try:
        seeds = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0:
        raise ConfigError(f"--seeds {text}: expected numbers from 0 on, as 0,1,2")
    return seeds


def make_jobs(
    out: Path,
    categories: Mapping[str, Listing],
    seeds: Sequence[int],
    recipe: Recipe,
    *,
    layout: str,
    protocol: str,
    threads_each: int,
    general: Path | None = None,
) -> list[Job]:
    """Write the plan and every job's note below `out`, or take up what is there; seeds of a category come together.

    `general`: the file of a general discrete model, instead of the shipped one. Categories and seeds may be added to an
    earlier run; all else must be its own. Raises DataError.
    """
    roots = {listing.root.resolve() for listing in categories.values()}
    if any(out.resolve().is_relative_to(root) for root in roots):
        raise ConfigError(f"--out {out} lies inside the data, whose images its pictures would become; choose another")
    settled = recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": 0, "threads": 0})})
    shared = {"protocol": protocol, "layout": layout, "general": "" if general is None else sha256(general)}
    if protocol in MAP_SIZES:  # by earlier versions `full` was measured at the network's size
        shared["map_size"] = MAP_SIZES[protocol]
    plan, kept = out / PLAN, out / RECIPE
    text = dump_recipe(settled)
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            if not plan.is_file() or not kept.is_file():
                raise DataError(f"{out} exists and holds no benchmark; choose another --out")
            if json.loads(plan.read_text(encoding="utf-8")) != shared or kept.read_text(encoding="utf-8") != text:
                raise DataError(
                    f"{out} holds a benchmark of another recipe, layout, protocol or general model; "
                    "choose another --out"
                )
        out.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps(shared) + "\n", encoding="utf-8")
        kept.write_text(text, encoding="utf-8")
        jobs = []
        for category, listing in categories.items():
            for seed in seeds:
                threads = recipe.run.threads or threads_each
                job = Job(category, seed, out / category / f"seed{seed}")
                job.folder.mkdir(parents=True, exist_ok=True)
                if (job.folder / JOB).exists():  # its training goes on as it began
                    threads = int(json.loads((job.folder / JOB).read_text(encoding="utf-8"))["threads"])
                note = {
                    "category": category,
                    "data": str(listing.root.resolve()),
                    "layout": layout,
                    "seed": seed,
                    "protocol": protocol,
                    "recipe": str(kept.resolve()),
                    "threads": threads,
                    "general": "" if general is None else str(general.resolve()),
                }
                (job.folder / JOB).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
                jobs.append(job)
        return jobs
    except (OSError, ValueError) as problem:
        raise DataError(f"cannot use {out} for a benchmark: {first_line(problem)}; choose another --out") from problem
