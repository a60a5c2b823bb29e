"""The jury: six real sets, and the surfaces that flawmap draws, trained and evaluated over seeds, and their table.

    python bench/jury.py --data FOLDER_OF_SETS --recipe fast --seeds 0,1,2 [--sets kolektor,mtoc] [--drawn] [--core 0]
    python bench/jury.py --write

Each training and each evaluation is a process of its own with one thread. A run has its result file in
bench/results/jury as soon as it is evaluated and is skipped from then on; one that was killed goes on from its last
checkpoint when the same command is given again, and one that fails does not stop the others. Several processes may
work side by side, best with different --core: a run that another one is at is left to it.
--package takes the code of another checkout (its src folder), --set other settings, which want a --tag; --adopt makes a
result of a bundle and an evaluation that exist. --write puts the table into docs/results/jury.md; without --data,
--drawn or --adopt it is all that is done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch

from common import HERE, RESULTS, commit, read_results, write_result
from jury_figures import DRAWN, SETS, collect, drawn_sets, without_near_duplicates
from jury_states import State, name_of, states
from jury_table import put, report
from processes import Busy, Failed, alone_in, clock, one_thread, timed, train_and_evaluate

ROOT = HERE.parent
JURY = RESULTS / "jury"
PAGE = ROOT / "docs" / "results" / "jury.md"
PARTS = ["--size", "256", "--train", "80", "--good", "40", "--bad", "40", "--seed", "0"]  # of a drawn surface
BEFORE = "before"  # the tag of the state that others are compared with


def run(chosen: argparse.Namespace, name: str, seed: int, lock: int) -> dict[str, Any]:
    """Train and evaluate one set with one seed, or go on with it, and collect what its result file holds.

    `lock` is the descriptor of the lock on its folder, which the processes inherit. Raises Failed when one of them ends
    with an error, SystemExit when the folder holds a run with other settings.
    """
    folder = chosen.work / file_name(chosen, name, seed)
    load = round(os.getloadavg()[0], 2)
    note_commits(chosen, folder)
    env = one_thread(chosen.package)
    data = drawn(chosen, name, env) if name.startswith(DRAWN) else chosen.data / name
    bundle, evaluation, spent = folder / "part.bundle", folder / "evaluation", folder / "seconds"
    words = [part for setting in [f"run.seed={seed}", *chosen.settings] for part in ("--set", setting)]
    how = ["--config", chosen.recipe, *words]
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        try:
            train_and_evaluate(data, data, how, bundle, evaluation, spent, env=env, log=log, keep_open=[lock])
        except Failed as problem:
            raise Failed(f"{problem}; its messages are in {folder / 'log.txt'}") from problem
    figures = collect(bundle, evaluation, clock(spent) / 60)
    commits = note_commits(chosen, folder)  # once more: it is said if the code changed meanwhile
    stated = {"recipe_sha256": recipe_digest(chosen)}
    return {"commit": ", ".join(commits), "load_before": load, **described(chosen, name, seed), **stated, **figures}


def described(chosen: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """What a run is, without folders of this machine."""
    recipe = Path(chosen.recipe).stem
    words = [f"--config {recipe}", *(f"--set {setting}" for setting in [f"run.seed={seed}", *settings(chosen)])]
    return {
        "set": name,
        "recipe": recipe,
        "tag": chosen.tag,
        "seed": seed,
        "settings": settings(chosen),
        "command": " ".join(["flawmap train", name, *words]),
    }


def settings(chosen: argparse.Namespace) -> list[str]:
    """The settings given, paths in them without their folders."""
    return [re.sub(r"(?<![\w.])/(?:[^/\s\"']+/)*", "", setting) for setting in chosen.settings]


def recipe_digest(chosen: argparse.Namespace) -> str:
    """SHA-256 of what the recipe sets, whatever its comments and layout.

    A recipe that comes with flawmap is the one of the package that is measured. Raises SystemExit where there is none.
    """
    shipped = chosen.package / "flawmap" / "recipes" / f"{chosen.recipe}.toml"
    file = shipped if shipped.exists() else Path(chosen.recipe)
    try:
        stated = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise SystemExit(f"--recipe {chosen.recipe} is no recipe that can be read ({problem})") from problem
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def check_same(chosen: argparse.Namespace, known: dict[str, Any], what: str) -> None:
    """Raise SystemExit where a run that is `known`, by its settings and recipe, is not the one asked for."""
    if known["settings"] != settings(chosen):
        raise SystemExit(f"{what} with the settings {known['settings']}; give these, or another --tag")
    if known.get("recipe_sha256", recipe_digest(chosen)) != recipe_digest(chosen):
        raise SystemExit(f"{what} when the recipe {chosen.recipe} was another; give another --tag")


def note_commits(chosen: argparse.Namespace, folder: Path) -> list[str]:
    """Note the commit of the code for the run in `folder`, and return all that it was worked on with.

    Raises SystemExit when the run was begun with other settings, or a recipe that was another.
    """
    file = folder / "state.json"
    begun = {"settings": settings(chosen), "recipe_sha256": recipe_digest(chosen), "commits": []}
    note = json.loads(file.read_text(encoding="utf-8")) if file.exists() else begun
    check_same(chosen, note, f"{folder} was begun")
    note["commits"] = list(dict.fromkeys([*note["commits"], chosen.commit or commit(chosen.package, ["."])]))
    file.write_text(json.dumps(note) + "\n", encoding="utf-8")
    return list(note["commits"])


def drawn(chosen: argparse.Namespace, name: str, env: dict[str, str]) -> Path:
    """The folder of a drawn surface; it is drawn once, and the same for all states."""
    folder: Path = chosen.work / name
    if not folder.exists():
        with alone_in(chosen.work / f".{name}", wait=True) as lock:
            if folder.exists():  # drawn by another process in the meantime
                return folder
            beside = chosen.work / f".{name}" / name
            shutil.rmtree(beside, ignore_errors=True)
            surface = ["--surface", name.removeprefix(DRAWN)]
            timed([sys.executable, "-m", "flawmap", "draw", str(beside), *surface, *PARTS], env=env, keep_open=[lock])
            beside.rename(folder)
    return folder


def file_name(chosen: argparse.Namespace, name: str, seed: int) -> str:
    """Name of a run's result, without .json."""
    return f"{name}-{name_of(Path(chosen.recipe).stem, chosen.tag)}-seed{seed}"


def run_all(chosen: argparse.Namespace) -> int:
    """Make each result that is not there yet, and return how many failed."""
    failed = 0
    for seed in chosen.seeds:
        for name in chosen.sets:
            file = file_name(chosen, name, seed)
            if is_done(chosen, file):
                print(f"{file} is done", flush=True)
                continue
            try:
                with alone_in(chosen.work / file) as lock:
                    if is_done(chosen, file):  # by another process in the meantime
                        continue
                    print(f"{file} begins", flush=True)
                    say(write(chosen, file, run(chosen, name, seed, lock)))
            except (Failed, Busy) as problem:
                print(f"{file}: {problem}", file=sys.stderr, flush=True)
                failed += isinstance(problem, Failed)
                continue
            if chosen.discard:
                shutil.rmtree(chosen.work / file)
    return failed


def is_done(chosen: argparse.Namespace, file: str) -> bool:
    """Whether there is a result; SystemExit when it is of other settings, or a recipe that was another."""
    path = chosen.out / f"{file}.json"
    if not path.exists():
        return False
    check_same(chosen, json.loads(path.read_text(encoding="utf-8")), f"{file} was measured")
    return True


def adopt(chosen: argparse.Namespace) -> None:
    """Make the result of a bundle and an evaluation that exist; with --adopt-strict alone, add to one that exists."""
    if len(chosen.sets) != 1 or len(chosen.seeds) != 1:
        raise SystemExit("--adopt and --adopt-strict take one run; give --sets NAME --seeds NUMBER")
    (name,), (seed,) = chosen.sets, chosen.seeds
    file = file_name(chosen, name, seed)
    path = chosen.out / f"{file}.json"
    if chosen.adopt:
        if path.exists():
            raise SystemExit(f"{path} exists; delete it first to adopt another")
        bundle, evaluation = chosen.adopt
        figures = collect(bundle, evaluation)
        provenance = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["provenance"]
        for what, found, wanted in (("seed", provenance.get("seed"), seed), ("set", provenance.get("data"), name)):
            if found != wanted:
                raise SystemExit(f"{bundle} was trained with the {what} {found}, not {wanted}; say --sets and --seeds")
        of = chosen.commit or commit(chosen.package, ["."])
        result = {"commit": of, "load_before": None, **described(chosen, name, seed), **figures}
    else:
        if not path.exists():
            raise SystemExit(f"there is no {path} to add to; give --adopt BUNDLE EVALUATION too")
        result = json.loads(path.read_text(encoding="utf-8"))
    if chosen.adopt_strict:
        known = result.get("without_near_duplicates", {})
        result["without_near_duplicates"] = known | without_near_duplicates(chosen.adopt_strict)
    say(write(chosen, file, result))


def write(chosen: argparse.Namespace, file: str, result: dict[str, Any]) -> dict[str, Any]:
    """Write a result file, and return what it holds."""
    path = write_result(file, "jury", result, "cuda" if torch.cuda.is_available() else "cpu", chosen.out)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def say(result: dict[str, Any]) -> None:
    """Print one line about a run."""
    known = {name: result["metrics"].get(name, {}).get("value") for name in ("image_auroc", "pixel_ap")}
    figures = [f"{name} {value:.3f}" for name, value in known.items() if value is not None]
    which = f"{name_of(result['recipe'], result['tag'])} on {result['set']}, seed {result['seed']}"
    print(f"{which}: {', '.join(figures)}, {result['minutes']} min", flush=True)


def tell(chosen: argparse.Namespace) -> None:
    """Print the table, and put it into the page if asked."""
    found = states(read_results("jury", chosen.out))
    names = chosen.candidates or list(found)
    pairs = chosen.compare or against_before(found)
    unknown = {name for name in (*names, *(name for pair in pairs for name in pair)) if name not in found}
    if unknown:
        raise SystemExit(f"no results of {', '.join(sorted(unknown))}; there are: {', '.join(found) or 'none'}")
    parts = report(found, pairs, [found[name] for name in names])
    print("\n\n".join("\n".join(lines) for lines in parts.values()))
    if chosen.write:
        put(chosen.page, parts)
        print(f"\nwrote {chosen.page}")


def against_before(found: dict[str, State]) -> list[tuple[str, str]]:
    """Pair each state with the one before it: that of its recipe with the tag `before`, or without a tag.

    That one itself, of another recipe than `fast`, goes with `fast`.
    """

    def first(recipe: str, tags: tuple[str, ...]) -> str | None:
        return next((name for tag in tags if (name := name_of(recipe, tag)) in found), None)

    pairs = []
    for name, state in found.items():
        old = first(state.recipe, (BEFORE, ""))
        if old == name:
            old = first("fast", ("", BEFORE)) if state.recipe != "fast" else None
        if old is not None:
            pairs.append((old, name))
    return pairs


def arguments() -> argparse.Namespace:
    """What the command line says, with lists for what is listed there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )

    def several(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    def two(text: str) -> tuple[str, str]:
        old, _, new = text.partition(",")
        return old, new

    parser.add_argument("--data", type=Path, metavar="FOLDER_OF_SETS", help="holds a folder for each real set")
    parser.add_argument("--recipe", default="fast", help="one that comes with flawmap, or a TOML file")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in several(text)], default=[0, 1, 2])
    parser.add_argument("--sets", type=several, default=[], help=f"some of {', '.join(SETS)}, {DRAWN}SURFACE")
    parser.add_argument("--drawn", action="store_true", help="every drawn surface as well")
    parser.add_argument("--core", type=int, help="the processor core to stay on")
    parser.add_argument("--package", type=Path, default=ROOT / "src", metavar="SRC_FOLDER", help="the code to measure")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--tag", default="", help=f"a word for another state; {BEFORE}: what others are compared with")
    parser.add_argument("--commit", default="", help="of the code, where its folder does not say")
    parser.add_argument("--adopt", type=Path, nargs=2, metavar=("BUNDLE", "EVALUATION"), help="make a result of these")
    parser.add_argument("--adopt-strict", type=Path, action="append", default=[], metavar="FILE",
                        help="metrics-without-N.json: add what is left without near-duplicates")  # fmt: skip
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/jury.md")
    parser.add_argument("--compare", type=two, action="append", default=[], metavar="OLD,NEW", help="these alone")
    parser.add_argument("--candidates", type=several, default=[], help="states to choose among; default: all")
    parser.add_argument("--discard", action="store_true", help="remove bundles and evaluations once they are measured")
    parser.add_argument("--out", type=Path, default=JURY, help="result files")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "jury", help="bundles and checkpoints")
    chosen = parser.parse_args()
    chosen.package = chosen.package.resolve()
    if not (chosen.package / "flawmap").is_dir():
        parser.error(f"{chosen.package} holds no package flawmap; give --package the src folder of a checkout")
    return chosen


def main() -> int:
    """Run, adopt or write as asked; return 1 when a run failed, else 0."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the training is ended too
    sys.path.insert(0, str(chosen.package))  # thresholds are set as the package that is measured sets them
    if chosen.core is not None:
        try:
            os.sched_setaffinity(0, {chosen.core})
        except (AttributeError, OSError) as problem:
            raise SystemExit(f"--core {chosen.core}: this system cannot keep a process there ({problem})") from problem
    adopting = chosen.adopt or chosen.adopt_strict
    running = not adopting and (chosen.data or chosen.sets or chosen.drawn)
    real = list(SETS) if chosen.data else []
    chosen.sets = list(dict.fromkeys([*(chosen.sets or real), *(drawn_sets() if chosen.drawn else [])]))
    others = [name for name in chosen.sets if name not in SETS]
    if unknown := [name for name in others if name not in drawn_sets()]:
        raise SystemExit(f"no set {', '.join(unknown)}; there are: {', '.join([*SETS, *drawn_sets()])}")
    if running and not chosen.data and set(chosen.sets) & set(SETS):
        raise SystemExit("real sets need --data, the folder that holds them")
    failed = 0
    if adopting:
        adopt(chosen)
    elif running:
        try:
            failed = run_all(chosen)
        except KeyboardInterrupt:
            files = [file_name(chosen, name, seed) for seed in chosen.seeds for name in chosen.sets]
            left = [file for file in files if not (chosen.out / f"{file}.json").is_file()]
            print(f"\nstopped; not run: {', '.join(left) or 'none'}. Give the same command again.", file=sys.stderr)
            return 130
    if chosen.write or not (adopting or running):
        tell(chosen)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
