"""What looking several times brings: mirrored, and by several bundles (seeds) together.

    python bench/looks.py --data DIR --name kolektor BUNDLE… [--flips none,across,both] [--write]

Every look is mirrored back, and the log-odds of the maps are averaged. One bundle is measured by itself for each way
of mirroring; of several, all together too: no network distilled from an ensemble would be expected to do better. Good
photos are not looked at anew, so that thresholds are not set and only what needs none is told.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import cores, write_result
from flawmap.bundle import Bundle, load_bundle
from flawmap.data.layouts import read_layout
from flawmap.deploy.evaluation import evaluate
from flawmap.deploy.inspector import Inspector
from flawmap.deploy.runtimes import TorchRuntime
from flawmap.measure.found import Array, Found
from flawmap.model.dsr import NEAREST, image_score

FLIPS: dict[str, list[tuple[int, ...]]] = {  # axes of (B, h, w) that each look is mirrored along
    "none": [()],
    "across": [(), (2,)],
    "both": [(), (1,), (2,), (1, 2)],
}
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")


class Looks:
    """A runtime that looks by several bundles, mirrored in several ways, and averages the log-odds."""

    name = "torch"
    usual_batch = 1

    def __init__(self, bundles: Sequence[Bundle], flips: str) -> None:
        self.runtimes = [TorchRuntime(bundle.model, "cpu", cores()) for bundle in bundles]
        self.flips, self.rule = FLIPS[flips], bundles[0].model.score_rule

    def __call__(self, images: Array) -> Found:
        """(B, 3, h, w) -> Found."""
        looks = [(runtime, axes) for runtime in self.runtimes for axes in self.flips]
        maps, firsts = [], []
        for runtime, axes in looks:
            seen = runtime(np.ascontiguousarray(np.flip(images, [axis + 1 for axis in axes])))
            maps.append(np.flip(seen.maps, axes))
            firsts.append(np.flip(seen.detection_maps, axes))
        first = together(firsts)
        scores = image_score(torch.from_numpy(first), self.rule).numpy()
        return Found(together(maps), scores, seen.object_images, seen.general_images, first)


def together(maps: Sequence[Array]) -> Array:
    """The mean of maps (B, h, w) by log-odds."""
    return torch.sigmoid(torch.logit(torch.from_numpy(np.stack(maps)), NEAREST).mean(0)).numpy()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what the data set is called in the results")
    parser.add_argument("--flips", default="none,across,both")
    parser.add_argument("--write", action="store_true", help="write bench/results/looks-NAME.json")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    listing = read_layout(chosen.data)
    bundles = [load_bundle(path) for path in chosen.bundles]
    teams = [[number] for number in range(len(bundles))] + ([[*range(len(bundles))]] if len(bundles) > 1 else [])
    rows: list[dict[str, Any]] = []
    for team in teams:
        for flips in chosen.flips.split(","):
            runtime = Looks([bundles[number] for number in team], flips)
            values = evaluate(Inspector(bundles[team[0]], runtime=runtime), listing).values
            row = {"bundles": team, "flips": flips, **{name: values[name].value for name in METRICS}}
            print(f"{team} {flips}: " + ", ".join(f"{name} {row[name]:.3f}" for name in METRICS), flush=True)
            rows.append(row)
    if chosen.write:
        print(f"wrote {write_result(f'looks-{chosen.name}', 'looks', {'rows': rows})}")


if __name__ == "__main__":
    main()
