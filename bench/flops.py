"""GFLOP an image: convolutions (transposed ones too) and matrix products, 2 FLOP a multiply-add, nothing else.

    python bench/flops.py [BUNDLE | RECIPE | transcription | efficientad]... [--height 256] [--width 256]

A bundle is counted at its own size unless one is given.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from contenders import random_bundle
from efficientad import EfficientAD
from flawmap.bundle import load_bundle
from transcription import Transcription


def gflop(model: nn.Module, height: int = 256, width: int = 256) -> float:
    """GFLOP of one image (3, height, width)."""
    return sum(by_part(model, height, width).values())


@torch.no_grad()
def by_part(model: nn.Module, height: int = 256, width: int = 256) -> dict[str, float]:
    """The same by the model's parts; "other" is what belongs to none (of DSR: encoding, searches, general drawing)."""
    # Fake tensors have shapes alone: nothing is computed.
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, height, width))
    counts = counter.get_flop_counts()
    total = sum(counts["Global"].values())
    root = type(model).__name__
    found: Counter[str] = Counter()
    for name, _ in model.named_children():
        found[name] = sum(counts.get(f"{root}.{name}", {}).values())
    found["other"] = total - sum(found.values())
    return {name: count / 1e9 for name, count in found.items() if count}


def model_of(source: str) -> tuple[nn.Module, int, int]:
    """A model by name, and its size."""
    if source == "transcription":
        return Transcription(), 256, 256
    if source == "efficientad":
        return EfficientAD(), 256, 256
    if Path(source).is_dir():
        bundle = load_bundle(Path(source))
        return bundle.model, bundle.recipe.image.height, bundle.recipe.image.width
    bundle = random_bundle(source)
    return bundle.model, bundle.recipe.image.height, bundle.recipe.image.width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["transcription", "efficientad", "paper", "fast"])
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    chosen = parser.parse_args()
    for source in chosen.sources:
        model, height, width = model_of(source)
        height, width = chosen.height or height, chosen.width or width
        parts = by_part(model, height, width)
        weights = sum(parameter.numel() for parameter in model.parameters())
        print(f"{source}: {sum(parts.values()):.1f} GFLOP at {height}x{width}, {weights / 1e6:.2f} M parameters")
        for name, count in sorted(parts.items(), key=lambda part: -part[1]):
            print(f"    {name:<20} {count:7.2f}")


if __name__ == "__main__":
    main()
