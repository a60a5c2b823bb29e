"""Evidence and scores beside those that `fast` has, each tried on trained bundles: what it finds alone and in company.

    python bench/candidates.py --data DIR --name NAME BUNDLE… [--write]

Evidence, the largest mean over 3 by 3 cells of each picture: how far codes are moved by subspace restriction (squared
distance of the codes before and after), and how rare codes are among good photos (-log of their share there, one count
added to each code), on the coarse and the fine grid. In company: added to the model's own log-odds, both in deviations
of good photos, as much as it finds painted defects better than chance, next to the model's own. Of the map: its
log-odds less their mean at each pixel on good photos, over their deviation there. Scores: the model's map by squares,
by so many largest pixels and by its largest region. Each is told by image AUROC on defects painted onto good photos,
which may choose, and on the test photos, which may not. How aligned good photos are is the mean correlation of each,
made 32 pixels wide, with the mean of the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from common import write_result
from flawmap.bundle import Bundle, load_bundle
from flawmap.data.dataset import GoodImages
from flawmap.data.images import read_shape
from flawmap.data.layouts import Sample, read_layout
from flawmap.data.masks import MaskReader, at_cells
from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.model.anomalies import rank_tables
from flawmap.model.dsr import NEAREST, ScoreRule, image_score
from flawmap.train.detect import with_defects
from flawmap.train.familiar import SEEN
from flawmap.train.loop import seeded

Floats = np.ndarray[Any, np.dtype[np.float64]]

GOOD = 256  # good photos that statistics are of, at most
PAINTED = 192  # pictures with painted defects
SIDE = 3  # cells along the square that evidence is a mean over
ALIGNED_SIDE = 32
LEAST = 0.25  # deviation of log-odds at a pixel, at least
REGION_LEVEL = 0.99  # quantile of good photos' pixels above which a region lies
GRIDS = ("coarse", "fine")
EVIDENCE = [f"{what}, {grid}" for what in ("moved by restriction", "rare codes") for grid in GRIDS]
RULES = {
    "largest pixel": ScoreRule(1),
    "square of 7": ScoreRule(7),
    "square of 11": ScoreRule(11),
    "square of 21": ScoreRule(21),
    **{f"largest {count} pixels": ScoreRule(1, count) for count in (49, 121, 441)},
}
REGION = "largest region"


class Seen:
    """What is kept of a picture: log-odds of its map (h, w), and of each grid its codes and how far they are moved."""

    def __init__(self, bundle: Bundle, picture: Tensor) -> None:
        examined = bundle.model.examine(picture)
        assert bundle.model.familiarity is not None, "a bundle of fast"
        _, fused = bundle.model.familiarity(examined.logits, examined.features, bundle.model.map_side)
        self.odds = torch.logit(fused[0].float(), NEAREST).numpy()
        encoding, restricted = examined.encoding, examined.restricted
        self.codes = [encoding.coarse_indices[0], encoding.fine_indices[0]]
        self.moved = [
            (before - after)[0].square().sum(0)
            for before, after in (
                (encoding.coarse_codes, restricted.coarse_codes),
                (encoding.fine_codes, restricted.fine_codes),
            )
        ]

    def evidence(self, rarity: Sequence[Tensor]) -> list[float]:
        """The largest of each of EVIDENCE; `rarity` (K,) of the codes of each grid."""
        grids = [*self.moved, *(table[codes] for table, codes in zip(rarity, self.codes, strict=True))]
        return [float(nn.functional.avg_pool2d(grid[None, None].float(), SIDE, 1).max()) for grid in grids]


def rarity_of(seen: Sequence[Seen], sizes: Sequence[int]) -> list[Tensor]:
    """-log of the share of each code among good photos, (K,) for each grid."""
    tables = []
    for grid, size in enumerate(sizes):
        counts = 1 + torch.stack([torch.bincount(one.codes[grid].flatten(), minlength=size) for one in seen]).sum(0)
        tables.append(-torch.log(counts / counts.sum()))
    return tables


def largest_region(odds: Floats, level: float) -> float:
    """The largest sum of log-odds above `level` over a connected region."""
    above = odds > level
    regions, count = ndimage.label(above)
    return float(ndimage.sum_labels(odds - level, regions, range(1, count + 1)).max()) if count else 0.0


def score(odds: Floats, rule: ScoreRule) -> float:
    """The score of a map of log-odds by a rule, as a model takes it; larger is worse."""
    if rule.pixels:
        return float(np.sort(odds, axis=None)[-rule.pixels :].mean())
    return float(image_score(torch.sigmoid(torch.from_numpy(odds))[None], rule))


def told_by(good: Sequence[float], bad: Sequence[float]) -> float:
    """Image AUROC."""
    return image_auroc(np.repeat([False, True], [len(good), len(bad)]), np.array([*good, *bad]))


def aligned(pictures: Sequence[Tensor]) -> float:
    """Mean correlation of each good photo, made small, with the mean of the others."""
    small = torch.stack([nn.functional.adaptive_avg_pool2d(one.mean(1), ALIGNED_SIDE).flatten() for one in pictures])
    rest = (small.sum(0) - small) / (len(small) - 1)
    return float(nn.functional.cosine_similarity(small - small.mean(1, True), rest - rest.mean(1, True), dim=1).mean())


def painted(bundle: Bundle, pictures: Sequence[Tensor]) -> list[Tensor]:
    """Pictures with painted defects of which enough is seen, as those that choose what serves."""
    settings = bundle.recipe.anomalies.model_copy(update={"empty": 0.0})
    generator = seeded(bundle.recipe.run.seed, 40)
    tables = rank_tables(bundle.model.discrete) if settings.ranks == "table" else None
    found = []
    for start in range(0, PAINTED, bundle.recipe.detect.batch):
        numbers = [index % len(pictures) for index in range(start, start + bundle.recipe.detect.batch)]
        batch = torch.cat([pictures[number] for number in numbers])
        sample = with_defects(bundle.model, batch, settings, generator, torch.device("cpu"), tables)
        found += [image[None] for image, mask in zip(sample.image, sample.mask, strict=True) if int(mask.sum()) >= SEEN]
    return found


def pixel_ap(odds: Sequence[Floats], samples: Sequence[Sample]) -> float:
    """Pixel AP on test photos, by masks at the map's size."""
    truth = []
    for one, sample in zip(odds, samples, strict=True):
        mask = MaskReader().read(sample.masks, read_shape(sample.image)) if sample.masks else np.zeros((1, 1), np.bool_)
        truth.append(at_cells(mask, *one.shape))
    return image_ap(np.concatenate([mask.ravel() for mask in truth]), np.concatenate([one.ravel() for one in odds]))


@torch.inference_mode()
def tried(bundle: Bundle, good_paths: Sequence[Path], samples: Sequence[Sample], say: Callable[[str], None]) -> Any:
    """Each candidate's AUROC on painted defects and on test photos, for one bundle."""
    bundle.model.eval()
    photos = GoodImages(good_paths[:: -(-len(good_paths) // GOOD)], bundle.recipe.image)
    pictures = [photos.get([index]) for index in range(len(photos))]
    good = [Seen(bundle, picture) for picture in pictures]
    bad = [Seen(bundle, picture) for picture in painted(bundle, pictures)]
    images = GoodImages([sample.image for sample in samples], bundle.recipe.image)
    test = [Seen(bundle, images.get([index])) for index in range(len(images))]
    is_bad = np.array([bool(sample.defective) for sample in samples])
    found: dict[str, Any] = {"aligned": aligned(pictures), "good": len(good), "painted": len(bad)}

    def both(of: Callable[[Seen], float]) -> dict[str, float]:
        values = np.array([of(one) for one in test])
        return {
            "painted": told_by([of(one) for one in good], [of(one) for one in bad]),
            "test": image_auroc(is_bad, values),
        }

    level = float(np.quantile(np.stack([one.odds for one in good]), REGION_LEVEL))
    found["rules"] = {name: both(lambda one, rule=rule: score(one.odds, rule)) for name, rule in RULES.items()}
    found["rules"][REGION] = both(lambda one: largest_region(one.odds, level))
    say(f"  scores: {found['rules']}")

    mean = np.mean([one.odds for one in good], axis=0)
    deviation = np.maximum(np.std([one.odds for one in good], axis=0), LEAST)
    rule = bundle.model.score_rule
    found["map"] = {"as it is": both(lambda one: score(one.odds, rule))}
    found["map"]["by its statistics"] = both(
        lambda one: score((one.odds - mean) / deviation, ScoreRule(1, rule.pixels))
    )
    found["map"]["as it is"]["pixel_ap"] = pixel_ap([one.odds for one in test], samples)
    found["map"]["by its statistics"]["pixel_ap"] = pixel_ap([(one.odds - mean) / deviation for one in test], samples)
    say(f"  map: {found['map']}")

    sizes = [book.size for book in (bundle.model.discrete.coarse_codebook, bundle.model.discrete.fine_codebook)]
    rarity = rarity_of(good, sizes)
    own = {id(one): score(one.odds, rule) for one in (*good, *bad, *test)}
    told = {id(one): one.evidence(rarity) for one in (*good, *bad, *test)}
    best = told_by([own[id(one)] for one in good], [own[id(one)] for one in bad]) - 0.5
    found["evidence"] = {}
    spread = {"own": (np.mean([own[id(one)] for one in good]), np.std([own[id(one)] for one in good]))}
    for number, name in enumerate(EVIDENCE):
        values = [told[id(one)][number] for one in good]
        centre, width = float(np.mean(values)), float(np.std(values))
        alone = both(lambda one, number=number: told[id(one)][number])
        counts = min(max(alone["painted"] - 0.5, 0.0) / best, 1.0) if best > 0 else 0.0
        together = both(
            lambda one, number=number, centre=centre, width=width, counts=counts: (
                (own[id(one)] - spread["own"][0]) / spread["own"][1]
                + counts * (told[id(one)][number] - centre) / max(width, 1e-9)
            )
        )
        found["evidence"][name] = {"alone": alone, "together": together, "counts": counts}
    say(f"  evidence: {found['evidence']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what the data set is called in the results")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--write", action="store_true", help="write bench/results/candidates-NAME.json")
    chosen = parser.parse_args()
    listing = read_layout(chosen.data)
    good = sorted(sample.image for sample in listing.train_good)
    samples = [sample for sample in listing.test if sample.defective is not None]
    found = []
    for path in chosen.bundles:
        bundle = load_bundle(path)
        print(f"{path.name}, seed {bundle.recipe.run.seed}", flush=True)
        seed = bundle.recipe.run.seed
        found.append({"seed": seed, **tried(bundle, good, samples, lambda line: print(line, flush=True))})
    if chosen.write:
        values = {"name": chosen.name, "bundles": found}
        print(f"wrote {write_result(f'candidates-{chosen.name}', 'candidates', values)}")


if __name__ == "__main__":
    main()
