"""The paper's ablations on real surfaces, each one setting away from a recipe, over seeds; writes a table.

    python bench/ablations.py --data DIR [--data DIR …] [--recipe fast] [--seeds 0] [--set …] [--only A,B]
    python bench/ablations.py … --only whole,deform --name added

Each ablation is a `flawmap benchmark`, resumable: give the same command again to go on. The table goes to
results/NAME.md, and every figure to results/NAME.json. Defects made otherwise than `fast` makes them, which are no
ablations, are tried in the same way when --only asks for them, and so are the ablations under FURTHER.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import HERE, RESULTS, write_result

# name: (what is left out, settings). Evidence beside detection's map would hide what they do, and is left out of all.
BASE = ["model.familiarity=[]", "model.guided=false"]
ABLATIONS = {
    "whole": ("nothing", []),
    "no restriction": ("subspace restriction: codes are drawn as they are", ["model.restriction=none"]),
    "no object decoder": ("the object-specific decoder: the general one draws both", ["model.decoder=frozen"]),
    "no general decoder": ("the general drawing: the image itself instead", ["model.compared_with=image"]),
    "continuous": ("quantization: features stay continuous", ["model.quantize=false"]),
    "defects in codes": ("painting: defects are made in the codes, as in the paper", ["anomalies.place=codes"]),
    "near only": (
        "far codes",
        ["anomalies.strength_min=0.05", "anomalies.strength_max=0.2", "anomalies.skip_nearest=0.01"],
    ),
    "far only": ("near codes", ["anomalies.strength_min=1.0", "anomalies.skip_nearest=0.5"]),
    "coarse only": ("defects of the fine grid", ["anomalies.grids=coarse"]),
    "fine only": ("defects of the coarse grid", ["anomalies.grids=fine"]),
}  # fmt: skip
# Ablations that take other code or longer, when asked for.
FURTHER = {
    "defects in pixels": ("codes: defects are smudges of one colour on the image", ["anomalies.place=smudges"]),
    "with refinement": ("nothing, and a refinement module added", ["refine.steps=200", "refine.batch=4"]),
}
# Candidates beyond the paper, when asked for: what is added.
ADDED = {
    "deform": ("a fifth of the defects are deformations of the codes", ["anomalies.deform=0.2"]),
}
KNOWN = {**ABLATIONS, **FURTHER, **ADDED}
SHOWN = ("image_auroc", "image_ap", "pixel_ap")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--only", default="", help="these ablations, by name")
    parser.add_argument("--name", default="ablations", help="of the result files")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "ablations")
    chosen = parser.parse_args()
    names = [name.strip() for name in chosen.only.split(",") if name.strip()] or list(ABLATIONS)
    if unknown := [name for name in names if name not in KNOWN]:
        sys.exit(f"no ablation {', '.join(unknown)}; there are: {', '.join(KNOWN)}")
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        for data in chosen.data:
            out = chosen.work / f"{data.resolve().name}-{name.replace(' ', '-')}"
            settings = [*BASE, *chosen.settings, *KNOWN[name][1]]
            how = [part for setting in settings for part in ("--set", setting)]
            command = [sys.executable, "-m", "flawmap", "benchmark", str(data), "--recipe", chosen.recipe]
            (out / "results.json").unlink(missing_ok=True)  # an old one would pass for this one's
            code = subprocess.run([*command, "--seeds", chosen.seeds, "--out", str(out), *how]).returncode
            if code not in (0, 2) or not (out / "results.json").exists():
                sys.exit(code or 1)
            rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]
            found.setdefault(name, {})[data.resolve().name] = rows[0]
    table = markdown(found, [data.resolve().name for data in chosen.data])
    print(table)
    values = {"recipe": chosen.recipe, "seeds": chosen.seeds, "settings": [*BASE, *chosen.settings], "ablations": found}
    write_result(chosen.name, chosen.name, values, "cpu", RESULTS)
    (RESULTS / f"{chosen.name}.md").write_text(table, encoding="utf-8")


def markdown(found: dict[str, dict[str, Any]], sets: list[str]) -> str:
    """A row an ablation: image AUROC, image AP, pixel AP on each data set."""
    heads = " | ".join(f"{name}: image AUROC | image AP | pixel AP" for name in sets)
    what = "added" if found.keys() & ADDED.keys() else "left out"
    lines = [f"| {what} | {heads} |", f"|{' --- |' * (1 + 3 * len(sets))}"]
    for name, by_data in found.items():
        cells = []
        for data in sets:
            for metric in SHOWN:
                cell = by_data[data][metric]
                spread = "" if not cell or cell["spread"] is None else f" ± {cell['spread']:.3f}"
                cells.append("–" if cell is None else f"{cell['mean']:.3f}{spread}")
        lines.append(f"| {KNOWN[name][0]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
