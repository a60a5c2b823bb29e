"""In which directions of the features real defects differ from good photos, and in which training defects do.

    python bench/experiments/feature_dsr_directions.py SETS_FOLDER CACHE NATURAL_PHOTOS [--sets kolektor,mtoc]

Of 256 whitened components, those in which good photos vary least first: the squared distance from the nearest patch of
the memory bank in the first and the last 16, over that of good photos left out, within masks of real defects and of
training defects painted on good photos left out; and how alike (cosine) differences of neighbouring cells are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from feature_dsr import HEADS, Detector, natural_cells, prepared
from feature_dsr_model import nearest_patch
from torch import Tensor, nn

from flawmap.data.masks import at_cells

GROUP, GOOD, DEFECTIVE, ROUNDS = 16, 8, 24, 6


class Differences:
    """Differences (C, h, w) from the nearest good patch, added up within masks (h, w)."""

    def __init__(self) -> None:
        self.squares: list[Tensor] = []
        self.alike: list[Tensor] = []

    def add(self, difference: Tensor, mask: Tensor) -> None:
        if mask.any():
            self.squares.append(difference[:, mask].square().mean(1).reshape(-1, GROUP).mean(1))
            both = mask[:, :-1] & mask[:, 1:]
            left, right = difference[:, :, :-1][:, both], difference[:, :, 1:][:, both]
            self.alike.append(nn.functional.cosine_similarity(left, right, 0))

    def told(self, good: Tensor) -> str:
        ratio = torch.stack(self.squares).mean(0) / good
        alike = float(torch.cat(self.alike).mean())
        return f"{float(ratio[0]):.1f} where good photos vary least, {float(ratio[-1]):.1f} most; alike {alike:.2f}"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds a folder for each set")
    parser.add_argument("cache", type=Path)
    parser.add_argument("natural", type=Path, help="natural photos, .jpg")
    parser.add_argument("--sets", default="kolektor,mtoc")
    chosen = parser.parse_args()
    settings = argparse.Namespace(seed=0, codes=512, strength=(0.5, 4.0), noise=(0.3, 2.0), distractors=0.5)
    settings.heads, settings.input = "", "codes"
    for name in chosen.sets.split(","):
        part = prepared(chosen.folder, chosen.cache, name, natural_cells(chosen.cache, chosen.natural))
        detector = Detector(part, settings)

        def difference(features: Tensor, bank: Detector = detector) -> Tensor:
            return features - nearest_patch(bank.part.density, features, bank.part.owners, None)[0]

        def photo(number: int, white: np.ndarray = part.white) -> Tensor:
            return torch.from_numpy(np.array(white[number]))[None].float()

        height, width = part.white.shape[-2:]
        good, real = Differences(), Differences()
        for number in part.left[:GOOD]:
            good.add(difference(photo(number))[0], torch.ones(height, width, dtype=torch.bool))
        usual = torch.stack(good.squares).mean(0)
        print(f"{name}, good photos: {good.told(usual)}")
        masked = np.flatnonzero(part.photos.masks.any((1, 2))).tolist()
        for index in masked[:: max(len(masked) // DEFECTIVE, 1)]:
            cells = torch.from_numpy(at_cells(part.photos.masks[index], height + 4, width + 4)[2:-2, 2:-2])
            real.add(difference(photo(part.photos.good + index))[0], cells)
        print(f"{name}, real defects: {real.told(usual)}")
        for kind in HEADS:
            painted = Differences()
            for _ in range(ROUNDS):
                made, _ = detector.painted(part.left, kind)
                for one, mask in zip(difference(made.features), made.mask, strict=True):
                    painted.add(one, mask)
            print(f"{name}, training defects ({kind}): {painted.told(usual)}", flush=True)


if __name__ == "__main__":
    main()
