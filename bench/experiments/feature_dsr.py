"""DSR's idea on pretrained features, and a discriminator on them, beside distances from a memory bank.

    python bench/experiments/feature_dsr.py SETS_FOLDER CACHE NATURAL_PHOTOS [--sets kolektor,mtoc] [--seed 0]

Features, memory banks and what is measured are those of feature_scores.py (same CACHE; some GB more). Half of the good
photos that the banks learnt from teach a restriction network, the other half small heads that find training defects;
a fifth of the good photos, seen by none, sets what a map's largest value counts as where sources are fused. Prints
image AUROC and pixel AP of each source, alone and with the memory banks, and what explains them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from feature_dsr_model import (
    CLIP,
    GROUPS,
    SCALES,
    Head,
    Painted,
    Painting,
    Restriction,
    amounts,
    at_scales,
    dequantized,
    learn_books,
    nearest_patch,
    paint,
)
from feature_scores import SETS, SOURCES, Photos, features, fitted, photos_of, pixel_ap, whole
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flawmap.bundle import load_imagenet
from flawmap.data.images import read_image, resize_image
from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.model.familiarity import Density, Moments
from flawmap.model.imagenet import ImageNetFeatures
from flawmap.train.losses import focal_loss

CROP, BATCH = 24, 4  # cells a side, crops a step
NATURAL = 100  # photos
KINDS = ("codes", "noise", "natural")  # of training defects
HEADS = {  # what they read, by the kind of training defects they learn
    "codes": ("maps", "difference", "difference + patch", "codes", "codes + patch"),
    "noise": ("noise", "noise + patch"),
    "natural": ("natural", "natural + patch"),
}
HIGH, LOW = SOURCES["high"], SOURCES["low"]
Maps = dict[str, Tensor]


class Part(NamedTuple):
    """A set with what its memory banks say: whitened features `white` (P, C, h, w) float16 on the disk; `owners` (N,)
    of the bank's patches; numbers of photos; the low resolution's map of each photo left out and tested."""

    photos: Photos
    white: Any
    density: Density
    owners: Tensor
    learnt: list[int]
    left: list[int]
    low: Tensor
    natural: Tensor

    def tested(self) -> list[int]:
        """Numbers of the photos left out, then of the test photos."""
        return [*self.left, *range(self.photos.good, len(self.white))]

    def crops(self, numbers: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """BATCH crops (B, C, h, w) of photos of these numbers, the same places of others, and whose they are (B,)."""
        height, width = self.white.shape[-2:]
        rows, columns = min(CROP, height), min(CROP, width)
        drawn = torch.randint(len(numbers), (2, BATCH), generator=generator).tolist()
        tops = torch.randint(height - rows + 1, (BATCH,), generator=generator).tolist()
        lefts = torch.randint(width - columns + 1, (BATCH,), generator=generator).tolist()
        found = [
            torch.stack(
                [
                    torch.from_numpy(np.array(self.white[numbers[one], :, top : top + rows, left : left + columns]))
                    for one, top, left in zip(ones, tops, lefts, strict=True)
                ]
            ).float()
            for ones in drawn
        ]
        return found[0], found[1], torch.tensor([numbers[one] for one in drawn[0]])


@torch.no_grad()
def natural_cells(cache: Path, folder: Path) -> Tensor:
    """Features (N, C) of natural photos' neighbouring cells, as those of the high resolution."""
    path = cache / "natural-high.npy"
    if not path.exists():
        model = ImageNetFeatures().eval()
        load_imagenet(model)
        paths = sorted(folder.glob("*.jpg"))
        found = []
        for one in paths[:: max(len(paths) // NATURAL, 1)][:NATURAL]:
            image = resize_image(read_image(one), 320, 480, "area")
            blocks = model.blocks(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))
            photos = Photos({row: blocks[row].numpy() for row in HIGH.rows}, 1, *(np.zeros(0),) * 3)
            found.append(features(photos, HIGH, 0)[:, ::4].flatten(1).t())
        np.save(path, torch.cat(found).half().numpy())
    return torch.from_numpy(np.load(path)).float()


@torch.no_grad()
def prepared(folder: Path, cache: Path, name: str, natural: Tensor) -> Part:
    """The set's whitened features and memory banks, from the cache where they are there."""
    photos = photos_of(folder, cache, name, HIGH.side)
    note, path = cache / f"{name}-dsr.safetensors", cache / f"{name}-dsr-white.npy"
    if not note.exists():
        high, low = fitted(photos, HIGH), fitted(photos, LOW)
        total = photos.good + len(photos.defective)
        white = None
        for index in range(total):
            cells = high.density.white(features(photos, HIGH, index).permute(1, 2, 0)).permute(2, 0, 1)
            if white is None:
                white = np.lib.format.open_memmap(path, "w+", np.float16, (total, *cells.shape))
            white[index] = cells.half().numpy()
        numbers = [*high.left, *range(photos.good, total)]
        maps = torch.cat([low.density(features(photos, LOW, index)[None]) for index in numbers])
        assert high.density.memory is not None, "high resolution has a memory bank"
        tensors = {
            "mean": high.density.mean, "whitening": high.density.whitening, "memory": high.density.memory,
            "owners": high.owners, "learnt": torch.tensor(high.learnt), "left": torch.tensor(high.left),
            "low": whole(photos, maps, 1 + LOW.around // 2),
        }  # fmt: skip
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, note)
    stored = load_file(note)
    density = Density(len(stored["mean"]), HIGH.components)
    density.mean.copy_(stored["mean"])
    density.whitening.copy_(stored["whitening"])
    density.memory = stored["memory"]
    owners, learnt, left = stored["owners"], stored["learnt"].tolist(), stored["left"].tolist()
    cells = density.white(natural).clamp(-CLIP, CLIP)
    return Part(photos, np.load(path, mmap_mode="c"), density, owners, learnt, left, stored["low"], cells)


def descend(networks: Sequence[nn.Module], steps: int, loss_of: Callable[[], Tensor]) -> float:
    """Adam at a falling rate; returns the mean loss of the last tenth."""
    parameters = [each for network in networks for each in network.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-max(steps // 10, 1) :]))


class Detector:
    """Codebooks, restriction and heads of one set."""

    def __init__(self, part: Part, chosen: argparse.Namespace) -> None:
        self.part, self.chosen = part, chosen
        torch.manual_seed(chosen.seed)
        self.generator = torch.Generator().manual_seed(chosen.seed)
        order = torch.randperm(len(part.learnt), generator=self.generator).tolist()
        numbers = [part.learnt[one] for one in order]
        self.first, self.second = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
        crops = torch.cat([part.crops(part.learnt, self.generator)[0] for _ in range(24)])
        self.books = learn_books(crops, part.natural, (chosen.codes // 2, chosen.codes), self.generator)
        channels = crops.shape[1]
        self.facts: dict[str, float] = {
            "variance left by quantization": float((dequantized(self.books, crops) - crops).var() / crops.var())
        }
        self.restriction = Restriction(channels)
        self.residual = Density(channels)
        heads = {"maps": Head(2 * len(SCALES), anchored=True)}
        inputs_of = {"difference": channels + GROUPS, "codes": channels, "noise": channels, "natural": channels}
        for kind, inputs in inputs_of.items():
            kernel = 1 if kind == "noise" else 3
            heads[kind] = Head(inputs, kernel=kernel)
            heads[f"{kind} + patch"] = Head(inputs + channels + GROUPS + 1, kernel=kernel, anchored=True)
        self.heads = nn.ModuleDict({name: head for name, head in heads.items() if name in chosen.heads.split(",")})

    def painting(self, kind: str) -> Painting:
        """How defects of a kind are made."""
        strength = self.chosen.strength if kind == "codes" else self.chosen.noise
        return Painting(kind, strength, self.chosen.distractors)

    def reconstructions(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The general one and the object-specific one, (B, C, h, w) each."""
        general = dequantized(self.books, features) if self.chosen.input == "codes" else features
        return general, self.restriction(general)

    def known(self, features: Tensor, without: Tensor | None, kinds: Sequence[str] = KINDS) -> Maps:
        """What each head of `kinds` reads (B, C', h, w), and the bank's and the restriction's maps (B, 1, h, w)."""
        with torch.no_grad():
            patch, distance = nearest_patch(self.part.density, features, self.part.owners, without)
            near = torch.cat([features - patch, amounts(features - patch), distance], 1)
            beside = torch.cat([features, near], 1)
            found = {"high": distance}
            if "noise" in kinds:
                found |= {"noise": features, "noise + patch": beside}
            if "natural" in kinds:
                found |= {"natural": features, "natural + patch": beside}
            if "codes" in kinds:
                general, restricted = self.reconstructions(features)
                residual = features - restricted
                difference = torch.cat([general - restricted, amounts(residual)], 1)
                maps = torch.cat([self.residual(residual), distance], 1)
                found |= {"codes": features, "codes + patch": beside, "residual": maps[:, :1], "maps": at_scales(maps)}
                found |= {"difference": difference, "difference + patch": torch.cat([difference, near], 1)}
        return found

    def painted(self, numbers: Sequence[int], kind: str) -> tuple[Painted, Tensor]:
        crops, others, owners = self.part.crops(numbers, self.generator)
        return paint(self.books, crops, others, self.painting(kind), self.generator), owners

    def learn(self) -> None:
        """Restriction on the first half of the photos, residual's covariance and heads on the second."""

        def restriction_loss() -> Tensor:
            made, _ = self.painted(self.first, "codes")
            return nn.functional.mse_loss(self.reconstructions(made.features)[1], made.clean)

        self.facts["restriction's loss"] = descend([self.restriction], self.chosen.restrict, restriction_loss)
        self.restriction.eval().requires_grad_(False)
        self.facts["restriction's residual, photos learnt from"] = self._residual(self.first, None)
        moments = Moments(self.part.white.shape[1])
        self.facts["restriction's residual, other good photos"] = self._residual(self.second, moments)
        self.residual.fit(moments.mean(), moments.covariance())
        self._anchor()

        def heads_loss() -> Tensor:
            losses = []
            for kind in KINDS:
                heads = {name: self.heads[name] for name in HEADS[kind] if name in self.heads}
                if heads:
                    made, owners = self.painted(self.second, kind)
                    known = self.known(made.features, owners, [kind])
                    for name, head in heads.items():
                        losses.append(focal_loss(head(known[name]), made.mask, unsure=made.unsure))
            return torch.stack(losses).sum()

        self.facts["heads' loss"] = descend([self.heads], self.chosen.steps, heads_loss)
        self.heads.eval()

    @torch.no_grad()
    def _anchor(self) -> None:
        """Heads start from even odds at a distance that one good cell of a hundred has."""
        drawn = [self.part.crops(self.second, self.generator) for _ in range(8)]
        found = [nearest_patch(self.part.density, crops, self.part.owners, owners)[1] for crops, _, owners in drawn]
        level = torch.stack(found).flatten().quantile(0.99)
        for head in self.heads.values():
            assert isinstance(head, Head)
            head.level.copy_(level)

    @torch.no_grad()
    def _residual(self, numbers: Sequence[int], moments: Moments | None) -> float:
        squares = []
        for number in numbers[:40]:
            features = torch.from_numpy(np.array(self.part.white[number]))[None].float()
            residual = features - self.reconstructions(features)[1]
            squares.append(float(residual.square().mean()))
            if moments is not None:
                moments.add(residual)
        return float(np.mean(squares))

    @torch.no_grad()
    def maps(self, features: Tensor, without: Tensor | None = None) -> Maps:
        """Each source's map of features (B, C, h, w): (B, 1, h, w), of heads the log-odds."""
        known = self.known(features, without)
        found = {name: known[name] for name in ("high", "residual")}
        for name, head in self.heads.items():
            logits = head(known[name])
            found[name] = logits[:, 1:] - logits[:, :1]
        return found

    def on_painted(self, kind: str, rounds: int = 16) -> dict[str, tuple[float, float]]:
        """Image AUROC and cell AP of each source on crops of good photos left out, with and without defects."""
        scores: dict[str, list[Tensor]] = {}
        cells: dict[str, list[Tensor]] = {}
        labels, truths = [], []
        for _ in range(rounds):
            made, _ = self.painted(self.part.left, kind)
            labels.append(made.mask.flatten(1).any(1))
            truths.append(made.mask[~made.unsure])
            for name, each in self.maps(made.features).items():
                scores.setdefault(name, []).append(each.flatten(1).amax(1))
                cells.setdefault(name, []).append(each[:, 0][~made.unsure])
        defective, truth = torch.cat(labels).numpy(), torch.cat(truths).numpy()
        return {
            name: (
                image_auroc(defective, torch.cat(scores[name]).double().numpy()),
                image_ap(truth, torch.cat(cells[name]).double().numpy()),
            )
            for name in scores
        }


def all_maps(detector: Detector) -> tuple[Maps, Maps]:
    """Maps of the photos left out and tested: as they are, whose largest values count, and of the photos' size."""
    part = detector.part
    found: dict[str, list[Tensor]] = {}
    for number in part.tested():
        features = torch.from_numpy(np.array(part.white[number]))[None].float()
        for name, each in detector.maps(features).items():
            found.setdefault(name, []).append(each)
    raw = {name: torch.cat(each) for name, each in found.items()}
    cut = 1 + HIGH.around // 2
    shown = {name: whole(part.photos, each, cut) for name, each in raw.items()}
    for name in detector.heads:
        raw[name] = nn.functional.avg_pool2d(raw[name], 3, 1)  # what counts of a head is the largest mean
    return {"low": part.low[:, None], **raw}, {"low": part.low, **shown}


class Fused(NamedTuple):
    """Image AUROC of the mean and of the largest of calibrated scores, pixel AP of the mean of calibrated maps."""

    mean: float
    largest: float
    pixel: float


def fuse(part: Part, raw: Maps, shown: Maps, names: Sequence[str]) -> Fused:
    """Sources as one: each in standard deviations above what the good photos left out come to."""
    left, scores, maps = len(part.left), [], torch.zeros_like(shown["low"])
    for name in names:
        largest = raw[name].flatten(1).amax(1)
        scores.append((largest - largest[:left].mean()) / largest[:left].std())
        maps += (shown[name] - shown[name][:left].mean()) / shown[name][:left].std() / len(names)
    together = torch.stack(scores)[:, left:].double()
    defective = part.photos.defective
    return Fused(
        image_auroc(defective, together.mean(0).numpy()),
        image_auroc(defective, together.amax(0).numpy()),
        pixel_ap(part.photos, maps[left:]),
    )


def explained(detector: Detector, raw: Maps, shown: Maps) -> dict[str, Any]:
    """What explains the figures: correlations with the bank's distance, training defects found on photos left out."""
    left = len(detector.part.left)
    defective = torch.from_numpy(detector.part.photos.defective)
    facts: dict[str, Any] = dict(detector.facts)
    for name, each in raw.items():
        if name in ("low", "high"):
            continue
        largest, bank = each.flatten(1).amax(1), raw["high"].flatten(1).amax(1)
        facts[f"{name}: correlation with high, cells and photos of the test"] = [
            _correlation(shown[name][left:].flatten(), shown["high"][left:].flatten()),
            _correlation(largest[left:], bank[left:]),
        ]
        good, bad = largest[left:][~defective], largest[left:][defective]
        facts[f"{name}: largest, median of left out, good test, defective"] = [
            round(float(some.median()), 2) for some in (largest[:left], good, bad)
        ]
    for kind in KINDS:
        found = detector.on_painted(kind)
        for name, (auroc, ap) in found.items():
            facts[f"{name}: AUROC, AP on painted {kind}, photos left out"] = [round(auroc, 3), round(ap, 3)]
    return facts


def _correlation(a: Tensor, b: Tensor) -> float:
    return round(float(torch.corrcoef(torch.stack([a, b]))[0, 1]), 3)


def rows_of(part: Part, raw: Maps, shown: Maps) -> dict[str, Fused]:
    """Every row of the table: sources alone, and with the memory banks."""
    rows = {name: fuse(part, raw, shown, [name]) for name in raw}
    rows["low, high"] = fuse(part, raw, shown, ["low", "high"])
    for name in raw:
        if name not in ("low", "high"):
            rows[f"high, {name}"] = fuse(part, raw, shown, ["high", name])
            rows[f"low, high, {name}"] = fuse(part, raw, shown, ["low", "high", name])
    return rows


def table(found: Mapping[str, Mapping[str, Fused]]) -> str:
    """A row a source, a column a set."""
    lines = ["| source | " + " | ".join(found) + " | mean |", "|" + "---|" * (len(found) + 2)]
    for label in next(iter(found.values())):
        each = [rows[label] for rows in found.values()]
        mean, largest = np.mean([one[:2] for one in each], 0).tolist()
        each.append(Fused(mean, largest, float(np.nanmean([one.pixel for one in each]))))
        lines.append(f"| {label} | {' | '.join(_cell(one) for one in each)} |")
    return "\n".join(lines)


def _cell(one: Fused) -> str:
    auroc = f"{one.mean:.3f}" if one.mean == one.largest else f"{one.mean:.3f}/{one.largest:.3f}"
    return auroc if np.isnan(one.pixel) else f"{auroc}, {one.pixel:.3f}"


def bounds(text: str) -> tuple[float, float]:
    low, high = text.split(",")
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds a folder for each set")
    parser.add_argument("cache", type=Path)
    parser.add_argument("natural", type=Path, help="natural photos, .jpg")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--heads", default=",".join(name for names in HEADS.values() for name in names))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", choices=["codes", "features"], default="codes", help="what the restriction reads")
    parser.add_argument("--codes", type=int, default=512, help="of the fine codebook; the coarse one has half as many")
    parser.add_argument("--strength", type=bounds, default=(0.5, 4.0), help="share of the way to another code")
    parser.add_argument("--noise", type=bounds, default=(0.3, 2.0), help="deviation of Gaussian noise as defects")
    parser.add_argument("--distractors", type=float, default=0.5, help="share of crops with some")
    parser.add_argument("--restrict", type=int, default=300, help="steps of the restriction")
    parser.add_argument("--steps", type=int, default=400, help="steps of the heads")
    parser.add_argument(
        "--save", type=Path, help="folder for rows and facts, a file a set; those there are not measured again"
    )
    chosen = parser.parse_args()
    natural = natural_cells(chosen.cache, chosen.natural)
    found = {}
    for name in chosen.sets.split(","):
        kept = chosen.save / f"{name}.json" if chosen.save else None
        if kept and kept.exists():
            found[name] = {row: Fused(*each) for row, each in json.loads(kept.read_text())["rows"].items()}
            continue
        began = time.monotonic()
        part = prepared(chosen.folder, chosen.cache, name, natural)
        detector = Detector(part, chosen)
        detector.learn()
        raw, shown = all_maps(detector)
        found[name] = rows_of(part, raw, shown)
        facts = explained(detector, raw, shown)
        print(f"{name} ({time.monotonic() - began:.0f} s)", flush=True)
        for key, value in facts.items():
            print(f"  {key}: {value}", flush=True)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps({"rows": found[name], "facts": facts}))
    print(table(found))


if __name__ == "__main__":
    main()
