"""Parts at any angle: whether they are recognised, and what turned patches bring, by features alone; nothing trained.

    python bench/experiments/turned_parts.py recognition SETS_FOLDER
    python bench/experiments/turned_parts.py scores SETS_FOLDER --sets toy_figures,kolektor,bsdata,mtoc
    python bench/experiments/turned_parts.py scores SETS_FOLDER --sets toy_figures,kolektor --photos 20

No set here has turned parts, so that some are made: of each photo a square (about the defect, else at a random place
along the longer side; toy figures, which fill their photos, on a square of their background), turned with its mask by a
random angle, seed 0, its border mirrored. Scores are those of bench/experiments/feature_scores.py ("low" and "high").
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flawmap.bundle import load_imagenet
from flawmap.data.dataset import rotated
from flawmap.data.images import Mask, read_image, resize_image
from flawmap.data.layouts import Sample, read_layout
from flawmap.data.masks import MaskReader, at_cells
from flawmap.data.surfaces import SURFACES, draw_good
from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.measure.orientation import Orientation
from flawmap.model.familiarity import HIGH, LOW, SHRINKAGE_OF_MEMORY, Density, Moments, surroundings, within_border
from flawmap.model.imagenet import ImageNetFeatures
from flawmap.train.core_set import core_set
from flawmap.train.orientation import PHOTOS, from_images

SETS = ("toy_figures", "kolektor", "mtoc", "elpv_poly", "bsdata", "magnetic_tile")
ANGLES = tuple(45.0 * number for number in range(1, 8))  # degrees
PADDED = ("toy_figures",)
SIDE, COMPONENTS, AROUND = 384, 256, 3
CANDIDATES, DIRECTIONS = 60_000, 64
BANKS = {  # patches of the bank; angles by which good photos are turned; whether the Gaussian knows turned photos too
    "2000": (2000, (), False),
    "2000, turned by 90°": (2000, ANGLES[1::2], False),
    "2000, turned by 45°": (2000, ANGLES, False),
    "2000, turned by 45°, the Gaussian too": (2000, ANGLES, True),
    "4000": (4000, (), False),
    "4000, turned by 90°": (4000, ANGLES[1::2], False),
    "4000, turned by 45°": (4000, ANGLES, False),
}
Image = np.ndarray[Any, np.dtype[np.float32]]


class Turned(NamedTuple):
    """A turned picture (1, 3, H, W), and the pixels (H, W) bool of it that count and were in the picture before."""

    picture: Tensor
    valid: Tensor


def turned_picture(picture: Tensor, inside: Mask | None, degrees: float) -> Turned:
    """A picture (1, 3, H, W) on the CPU turned about its centre; `inside`: (H, W) what of it counts, None for all."""
    angles = torch.tensor([math.radians(degrees)])
    counts = torch.ones(1, 1, *picture.shape[-2:])
    if inside is not None:
        counts = torch.from_numpy(inside)[None, None].float()
    turned = rotated(picture, angles, "reflection", "bicubic").clamp(0, 1)
    return Turned(turned, rotated(counts, angles)[0, 0] > 0.999)


def patches_within(features: Tensor, valid: Tensor, around: int) -> Tensor:
    """Patches (N, C) of features (1, C, h, w), each a mean over `around` by `around` cells, of those whose cells are
    `valid` (H, W) bool altogether. The outermost cells are left out, as everywhere. There may be none."""
    means = surroundings(features, around)
    outside = (~valid[None, None]).to(features.device, torch.float32)
    inner = within_border(nn.functional.adaptive_max_pool2d(outside, features.shape[-2:]))
    side = inner.shape[-1] - means.shape[-1] + 1
    inner = nn.functional.max_pool2d(inner, side, 1) if side > 1 else inner
    return means[0][:, inner[0, 0] == 0].t()


class Part(NamedTuple):
    """A photo (1, 3, H, W), whether it is defective, and its mask (H, W) bool; None where it has none."""

    picture: Tensor
    defective: bool
    mask: Tensor | None


def turned_part(sample: Sample, angle: float, place: float, pad: bool, side: int, turn: bool) -> Part:
    """A square of a photo, with its mask, turned by `angle` in radians if asked to, at no more than `side` pixels."""
    image = read_image(sample.image)
    height, width = image.shape[:2]
    mask = MaskReader().read(sample.masks, (height, width)) if sample.masks else None
    short, long = min(height, width), max(height, width)
    if pad:
        before = [(long - size) // 2 for size in (height, width)]
        room = [(first, long - size - first) for first, size in zip(before, (height, width), strict=True)]
        image = np.pad(image, (*room, (0, 0)), mode="edge")
        mask = None if mask is None else np.pad(mask, room)
    else:
        along = place
        if mask is not None and mask.any():
            middle = [float(axis.mean()) for axis in np.nonzero(mask)]
            at = middle[0] if height > width else middle[1]
            along = min(max(at - short / 2, 0), long - short) / max(long - short, 1)
        top, left = round(along * (height - short)), round(along * (width - short))
        image = image[top : top + short, left : left + short]
        mask = None if mask is None else mask[top : top + short, left : left + short]
    own = len(image)
    planes = [torch.from_numpy(image.transpose(2, 0, 1).copy())]
    planes.append(torch.zeros(1, own, own) if mask is None else torch.from_numpy(mask.copy())[None].float())
    both = torch.cat(planes)[None]
    if turn:
        both = rotated(both, torch.tensor([angle]), "border" if pad else "reflection")
    size = 16 * round(min(side, max(own, 256)) / 16)
    square = resize_image(both[0, :3].permute(1, 2, 0).contiguous().numpy(), size, size, "area")
    shown = torch.from_numpy(at_cells((both[0, 3] > 0.5).numpy(), size, size))
    return Part(
        torch.from_numpy(square.transpose(2, 0, 1).copy())[None],
        bool(sample.defective),
        None if mask is None else shown,
    )


def parts_of(samples: Sequence[Sample], name: str, seed: int, side: int = SIDE, turn: bool = True) -> list[Part]:
    """Photos of a set, each turned by its own random angle."""
    draws = np.random.default_rng(seed).uniform(size=(len(samples), 2))
    return [
        turned_part(sample, float(2 * math.pi * angle), float(place), name in PADDED, side, turn)
        for sample, (angle, place) in zip(samples, draws, strict=True)
    ]


def _image(part: Part) -> Image:
    found: Image = part.picture[0].permute(1, 2, 0).contiguous().numpy()
    return found


def recognition(folder: Path, names: Sequence[str], photos: int) -> None:
    """Print what is recognised of each set and each drawn surface, as it is and turned."""
    print("| parts | turned by | agreement as they lie | turned to fit | turned anyhow | apart | recognised |")
    print("|" + "---|" * 7)

    def row(name: str, how: str, found: Orientation) -> None:
        told = (found.as_they_lie, found.turned, found.any_turn)
        numbers = " | ".join(f"{value:.3f}" for value in told)
        verdict = "varying" if found.varies else ("alike" if found.stands_out else "no angle")
        print(f"| {name} | {how} | {numbers} | {100 * found.apart:.0f} % | {verdict} |", flush=True)

    for name in names:
        samples = sorted(read_layout(folder / name).train_good, key=lambda sample: sample.image)
        count = min(PHOTOS, photos, len(samples))
        chosen = [samples[number * len(samples) // count] for number in range(count)]
        row(name, "–", from_images(read_image(sample.image) for sample in chosen))
        whole = [turned_part(sample, 0, 0.5, name in PADDED, SIDE, False) for sample in chosen]
        variants(row, name, [part.picture for part in whole])
    for name in SURFACES:
        drawn = [draw_good(name, 192, np.random.default_rng([5, number])) for number in range(min(PHOTOS, photos))]
        row(name, "–", from_images(drawn))
        variants(row, name, [torch.from_numpy(image.transpose(2, 0, 1).copy())[None] for image in drawn])


def variants(row: Any, name: str, pictures: Sequence[Tensor]) -> None:
    """Rows of square pictures (1, 3, H, H) turned by any angle, by quarters, and by halves."""
    rng = np.random.default_rng(0)
    for how, step in (("any angle", 0), ("quarters", 90), ("halves", 180)):
        draws = rng.uniform(size=len(pictures))
        degrees = [360 * draw if not step else step * math.floor(draw * 360 / step) for draw in draws]
        turned = [
            rotated(picture, torch.tensor([math.radians(angle)]), "reflection")
            for picture, angle in zip(pictures, degrees, strict=True)
        ]
        row(name, how, from_images(each[0].permute(1, 2, 0).contiguous().numpy() for each in turned))


@torch.inference_mode()
def scores(folder: Path, names: Sequence[str], photos: int, turn: bool, labels: Sequence[str]) -> None:
    """Print image AUROC and pixel AP of each bank on each set, of low and of high resolution."""
    network = ImageNetFeatures().eval()
    load_imagenet(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    print("| set | source | bank | image AUROC | pixel AP |\n|" + "---|" * 5)
    for name in names:
        listing = read_layout(folder / name)
        good = sorted(listing.train_good, key=lambda sample: sample.image)
        good = good[:: -(-len(good) // photos)]
        test = [sample for sample in listing.test if sample.defective is not None]
        began = time.monotonic()
        learnt, tested = parts_of(good, name, 0, turn=turn), parts_of(test, name, 1, turn=turn)
        banks = _banks(learnt, network, labels)
        for source, densities in banks.items():
            for label, (auroc, ap) in _measured(densities, source, tested, network).items():
                print(f"| {name} | {source} | {label} | {auroc:.3f} | {ap:.3f} |", flush=True)
        print(f"({name}: {len(good)} good photos, {time.monotonic() - began:.0f} s)", flush=True)


def _features(picture: Tensor, network: ImageNetFeatures) -> dict[str, Tensor]:
    blocks = network.blocks(picture.contiguous(memory_format=torch.channels_last))
    return {LOW: network.low_resolution(blocks), HIGH: network.high_resolution(blocks)}


def _banks(learnt: Sequence[Part], network: ImageNetFeatures, labels: Sequence[str]) -> dict[str, dict[str, Density]]:
    """Of each source, a Gaussian with a memory bank for each of the BANKS named."""
    every = sorted({0.0, *(angle for label in labels for angle in BANKS[label][1])})
    cells: dict[str, dict[float, list[Tensor]]] = {name: {} for name in (LOW, HIGH)}
    sums = {name: [Moments(channels) for _ in range(2)] for name, channels in _channels(network).items()}
    for part in learnt:
        for angle in every:
            picture, valid = turned_picture(part.picture, None, angle) if angle else (part.picture, _all(part.picture))
            for name, features in _features(picture, network).items():
                found = patches_within(features, valid, AROUND)
                for moments in sums[name][1 if angle else 0 :]:
                    moments.add(found[None, :, :, None].permute(0, 2, 1, 3))
                step = max(-(-len(found) * len(learnt) // CANDIDATES), 1)
                cells[name].setdefault(angle, []).append(found[::step].half())
    found_banks: dict[str, dict[str, Density]] = {}
    for name, both in sums.items():
        for label in labels:
            count, angles, whole = BANKS[label]
            usual = both[1 if whole else 0]
            density = Density(len(usual.total), COMPONENTS)
            density.fit(usual.mean(), usual.covariance(), SHRINKAGE_OF_MEMORY)
            patches = torch.cat([one for angle in (0.0, *angles) for one in cells[name][angle]])
            patches = patches[:: max(len(patches) // CANDIDATES, 1)].float()
            drawn = torch.randn(COMPONENTS, DIRECTIONS, generator=torch.Generator().manual_seed(42))
            density.remember(patches[core_set(density.white(patches) @ torch.linalg.qr(drawn)[0], count)])
            found_banks.setdefault(name, {})[label] = density
    return found_banks


def _channels(network: ImageNetFeatures) -> dict[str, int]:
    return {LOW: network.low_channels, HIGH: network.high_channels}


def _all(picture: Tensor) -> Tensor:
    return torch.ones(picture.shape[-2:], dtype=torch.bool)


def _measured(
    densities: dict[str, Density], source: str, tested: Sequence[Part], network: ImageNetFeatures
) -> dict[str, tuple[float, float]]:
    """Image AUROC, and pixel AP at a quarter of the photos' size (NaN without masks), by bank."""
    maps: dict[str, list[Tensor]] = {label: [] for label in densities}
    for part in tested:
        means = surroundings(_features(part.picture, network)[source], AROUND)
        for label, density in densities.items():
            maps[label].append(density(means))
    defective = np.array([part.defective for part in tested])
    sizes = [[side // 4 for side in part.picture.shape[-2:]] for part in tested]
    truth = [
        torch.from_numpy(at_cells(part.mask.numpy(), *size))
        if part.mask is not None
        else torch.zeros(*size, dtype=torch.bool)
        for part, size in zip(tested, sizes, strict=True)
    ]
    known = [number for number, part in enumerate(tested) if part.mask is not None or not part.defective]
    found = {}
    for label, each in maps.items():
        auroc = image_auroc(defective, np.array([float(one.max()) for one in each]))
        ap = math.nan
        if any(bool(mask.any()) for mask in truth):
            shown = [
                nn.functional.interpolate(nn.functional.pad(each[number], (2,) * 4, mode="replicate"), sizes[number],
                                          mode="bilinear", align_corners=False).flatten()
                for number in known
            ]  # fmt: skip
            marks = torch.cat([truth[number].flatten() for number in known])
            ap = image_ap(marks.numpy(), torch.cat(shown).double().numpy())
        found[label] = auroc, ap
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["recognition", "scores"])
    parser.add_argument("folder", type=Path, help="holds a folder for each set")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--photos", type=int, default=100, help="good photos, at most")
    parser.add_argument("--banks", default=";".join(BANKS), help="names with semicolons between them")
    parser.add_argument("--as-they-lie", action="store_true", help="scores of the same squares, not turned")
    chosen = parser.parse_args()
    if chosen.what == "recognition":
        recognition(chosen.folder, chosen.sets.split(","), chosen.photos)
    else:
        scores(chosen.folder, chosen.sets.split(","), chosen.photos, not chosen.as_they_lie, chosen.banks.split(";"))


if __name__ == "__main__":
    main()
