"""Proof that a change of names and places moved no result: two commits, one machine, one run, equal to the last bit.

    python bench/unmoved.py --before COMMIT [--only losses,demo,runtimes,station,help] [--work build/unmoved]

COMMIT is installed into an environment of its own, with the third-party packages of this one, and `unmoved_probe.py`
runs in both with the same number of threads. What each prints is compared, and nothing that was recorded elsewhere:

- losses: of each of 40 steps of `fast` and of `paper` (at 64 pixels, both its trainings), and the weights after them;
- demo: losses, weights, scores, threshold and figures of the whole demo;
- runtimes: scores, maps and regions of its 70 test parts by PyTorch, ONNX Runtime and OpenVINO, with the bundle that
  COMMIT trained;
- station: the answers to a fixed script of requests;
- help: of every command, where new names are shown, not refused.

What was measured stays in the work folder, so that the side of COMMIT is not run again; exit 1 where anything differs.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = ("losses", "demo", "runtimes", "station", "help")
SHOWN = 12  # differences that are printed of each part


def environment(commit: str, work: Path) -> Path:
    """The Python of an environment with flawmap as of `commit`, and all other packages of this one."""
    place = work / commit
    python = place / "env" / "bin" / "python"
    if (place / "ready").exists():
        return python
    shutil.rmtree(place, ignore_errors=True)
    source = place / "source"
    subprocess.run(["git", "clone", "--quiet", str(HERE.parent), str(source)], check=True)
    subprocess.run(["git", "-C", str(source), "checkout", "--quiet", commit], check=True)
    venv.create(place / "env", with_pip=False)
    paths = {"base": str(place / "env"), "platbase": str(place / "env")}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(packages), str(source)], check=True)
    (place / "ready").touch()
    return python


def measured(python: Path, part: str, side: Path, before: Path, threads: int, kept: bool) -> Any:
    """What the probe finds of `part` with the flawmap of `python`, in the folder `side`; `kept`: unless it is known."""
    found = side / f"{part}.json"
    if kept and found.exists():
        return json.loads(found.read_text(encoding="utf-8"))
    folder = side / part
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    hidden = ("PYTHONPATH", "FLAWMAP_EXPORTS")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"OMP_NUM_THREADS": str(threads), "COLUMNS": "80", "PYTHONHASHSEED": "0"}
    command = [str(python), str(HERE / "unmoved_probe.py"), part, str(found), str(before), str(threads)]
    subprocess.run(command, check=True, cwd=folder, env=env)
    return json.loads(found.read_text(encoding="utf-8"))


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Where two measurements differ, a line each; empty where they are equal to the last bit."""
    if isinstance(before, dict) and isinstance(now, dict):
        lines = [f"{place}/{name}: gone" for name in before if name not in now]
        lines += [f"{place}/{name}: new" for name in now if name not in before]
        return lines + [
            line for name in before if name in now for line in differences(before[name], now[name], f"{place}/{name}")
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for number, (one, other) in pairs for line in differences(one, other, f"{place}/{number}")]
    same = before == now and type(before) is type(now)
    return [] if same else [f"{place}: {str(before)[:100]} -> {str(now)[:100]}"]


def shown_help(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The lines of help that are not the same, as a diff of each command."""
    lines: list[str] = []
    for name in dict.fromkeys((*before, *now)):
        one, other = (side.get(name, "").splitlines() for side in (before, now))
        lines += difflib.unified_diff(one, other, f"before: {name}", f"now: {name}", n=0, lineterm="")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="COMMIT", help="the commit before the first move")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "unmoved")
    parser.add_argument("--threads", type=int, default=1, help="of both sides")
    chosen = parser.parse_args()
    name = subprocess.run(
        ["git", "-C", str(HERE.parent), "rev-parse", "--short", f"{chosen.before}^{{commit}}"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    work = chosen.work.resolve()
    python = environment(name, work)
    sides = work / f"before-{name}-{chosen.threads}", work / "now"
    moved = False
    asked = [part for part in PARTS if part in chosen.only.split(",")]
    needed = ["demo"] * ("runtimes" in asked or "station" in asked)  # of the side before: its bundle
    for part in dict.fromkeys((*needed, *asked)):
        before = measured(python, part, sides[0], sides[0], chosen.threads, kept=True)
        if part not in asked:
            continue
        now = measured(Path(sys.executable), part, sides[1], sides[0], chosen.threads, kept=False)
        if part == "help":
            lines = shown_help(before, now)
            print("help: " + (f"{len(lines)} lines of a diff" if lines else "the same"), *lines, sep="\n  ")
            continue
        found = differences(before, now)
        moved |= bool(found)
        print(f"{part}: " + (f"{len(found)} differences" if found else "equal"), *found[:SHOWN], sep="\n  ", flush=True)
    sys.exit(int(moved))


if __name__ == "__main__":
    main()
