"""What a memory of good photos brings, and how much of it is owed to near-duplicates of the test photos.

    python bench/memory.py --data DIR [--name NAME] [--numbered] [--write]

ImageNet's features over surroundings, nothing trained: the score of a photo is its largest distance from the mean of
good photos, or from the most alike of the places that are remembered, in deviations of their Gaussian as in `fast`
(which chooses the places of each group of photos apart; here they are chosen from all), or in raw numbers as PatchCore
has it (Roth et al. 2022). Where file names number the photos as they were taken (Magnetic Tile, with --numbered), each
test photo is judged again without the good photos near it in number: mean, Gaussian and memory know nothing of these
then.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import write_result
from flawmap.bundle import load_imagenet
from flawmap.config import load_recipe
from flawmap.data.dataset import GoodImages
from flawmap.data.layouts import read_layout
from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.model.familiarity import SHRINKAGE, SHRINKAGE_OF_MEMORY, Density, Moments, surroundings, within_border
from flawmap.model.imagenet import CHANNELS, ImageNetFeatures
from flawmap.train.core_set import core_set
from flawmap.train.familiar import DIRECTIONS
from flawmap.train.sources import shaped

PLACES = 2000  # that are remembered
APART = (0, 50, 200, 400)  # numbers within which good photos are left out


def number(path: Path) -> int:
    """The last number in a file's name."""
    return int(re.findall(r"\d+", path.stem)[-1])


def cells_of(features: Tensor) -> Tensor:
    """(1, C, h, w) -> (cells, C)."""
    return features[0].flatten(1).t()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", help="what the data set is called in the results; default: as its folder")
    parser.add_argument("--numbered", action="store_true", help="file names number the photos as they were taken")
    parser.add_argument("--write", action="store_true", help="write bench/results/memory-NAME.json")
    chosen = parser.parse_args()
    listing = read_layout(chosen.data)
    name = chosen.name or listing.name
    paths = sorted(sample.image for sample in listing.train_good)
    settings = shaped(load_recipe("fast").image, paths)
    train, test = GoodImages(paths, settings), GoodImages([sample.image for sample in listing.test], settings)
    defective = np.array([bool(sample.defective) for sample in listing.test])
    network = ImageNetFeatures().eval()
    load_imagenet(network)

    whole = Moments(CHANNELS)
    inner: list[Tensor] = []  # of each good photo, in half precision: features are looked at again and again
    around: list[Tensor] = []
    for index in range(len(train)):
        features = network(train.get([index]))
        whole.add(within_border(features))
        inner.append(within_border(features).half())
        around.append(cells_of(surroundings(features)).half())
    density = Density(CHANNELS)
    density.fit(whole.mean(), whole.covariance(), SHRINKAGE_OF_MEMORY)
    cells = torch.cat(around).float()
    owners = torch.arange(len(train)).repeat_interleave(len(around[0]))
    drawn = torch.randn(CHANNELS, DIRECTIONS, generator=torch.Generator().manual_seed(0))
    places = {
        "memory": core_set(density.white(cells) @ torch.linalg.qr(drawn)[0], PLACES),
        "memory, raw": core_set(cells @ torch.linalg.qr(drawn)[0], PLACES),
    }
    numbers = torch.tensor([number(path) for path in paths]) if chosen.numbered else torch.zeros(len(paths))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for apart in APART if chosen.numbered else (0,):
        scores: dict[str, list[float]] = {"mean": [], **{kind: [] for kind in places}}
        for index, path in enumerate(test.paths):
            features = surroundings(network(test.get([index])))
            near = (numbers - number(path)).abs() <= apart if apart else torch.zeros(len(paths), dtype=torch.bool)
            moments = without(whole, [inner[photo] for photo in near.nonzero().flatten().tolist()])
            density.remember(None)
            density.fit(moments.mean(), moments.covariance(), SHRINKAGE)
            scores["mean"].append(float(density(features).max()))
            density.fit(moments.mean(), moments.covariance(), SHRINKAGE_OF_MEMORY)
            for kind, kept in places.items():
                if kind == "memory, raw":
                    density.mean.zero_()
                    density.whitening.copy_(torch.eye(CHANNELS))
                density.remember(cells[kept[~near[owners[kept]]]])
                scores[kind].append(float(density(features).max()))
        key = f"without {apart}" if apart else "all"
        found[key] = {
            kind: {
                "image_auroc": image_auroc(defective, np.array(values)),
                "image_ap": image_ap(defective, np.array(values)),
            }
            for kind, values in scores.items()
        }
        told = (f"{kind} {each['image_auroc']:.3f} (AP {each['image_ap']:.3f})" for kind, each in found[key].items())
        print(f"{key:<12}" + "  ".join(told), flush=True)
    values = {"data": name, "found": found, "photos": len(train), "remembered": PLACES}
    if chosen.numbered:
        nearest = np.array([int((numbers - number(path)).abs().min()) for path in test.paths])
        values["numbers_away"] = {
            word: float(np.median(nearest[defective == kind])) for word, kind in (("good", False), ("defective", True))
        }
        print(f"numbers from a test photo to the nearest good one known, median: {values['numbers_away']}")
    if chosen.write:
        print(f"wrote {write_result(f'memory-{name}', 'memory', values, 'cpu')}")


def without(moments: Moments, features: Sequence[Tensor]) -> Moments:
    """`moments` less those of `features`, (1, C, h, w) each."""
    rest = Moments(len(moments.total))
    for each in features:
        rest.add(each.float())
    rest.count = moments.count - rest.count
    rest.total, rest.squares = moments.total - rest.total, moments.squares - rest.squares
    return rest


if __name__ == "__main__":
    main()
