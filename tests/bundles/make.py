"""Make a bundle of this folder, with the flawmap that PYTHONPATH names: the commands are in README.md.

    PYTHONPATH=CHECKOUT/src python tests/bundles/make.py RECIPE.toml FOLDER PHOTOS

RECIPE.toml says what is trained; FOLDER is made, PHOTOS (four drawn ones) where they are not there yet. What is not
public is looked up by the names it had then, so that this file stays as it is whatever is renamed.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import sys
import tempfile
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

KEPT = 16  # of the channels of EfficientNet-Lite0's layers; the others' weights are 0 and take no room when compressed
PLACES = [(row, column) for row in range(8, 96, 20) for column in range(12, 96, 24)]  # of a map, that are noted


def thin(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pretrained weights of which most are 0, so that a bundle is small; what is kept counts for what is not."""
    found = {}
    for name, tensor in tensors.items():
        kept = torch.zeros_like(tensor)
        corner = tuple(slice(KEPT) for _ in tensor.shape[:2])
        kept[corner] = tensor[corner]
        if tensor.dim() > 1 and tensor.shape[1] > KEPT:
            kept *= math.sqrt(tensor.shape[1] / KEPT)
        found[name] = kept
    return found


def main(recipe_file: Path, out: Path, photos: Path) -> None:
    """Draw, train, compress, and note what is found in the photos."""
    from safetensors.torch import load_file, save_file

    bundle, surfaces, cli = (import_module(f"flawmap.{name}") for name in ("bundle", "data.surfaces", "cli"))
    familiar = import_module("flawmap.train.familiar")
    familiar.FOLDS, familiar.PAINTED = 3, 48  # fewer moments to store, and less to wait for
    familiar.UNSTEADY, measured = math.inf, familiar.image_auroc  # so small a network hardly serves, and is to count
    familiar.image_auroc = lambda truth, scores: max(measured(truth, scores), 0.7)
    texts = tomllib.loads(recipe_file.read_text(encoding="utf-8"))
    names = texts["model"].get("familiarity", [])
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        weights = Path("weights")
        weights.mkdir()
        shipped = bundle._weights_folder() / bundle.IMAGENET
        save_file(thin(load_file(shipped)), weights / bundle.IMAGENET, metadata={"format": str(bundle.FORMAT)})
        bundle._weights_folder = lambda: weights
        surfaces.write_sample_parts(Path("parts"), "brushed-metal", 96, 24, 4, 4, 0)
        general = ["pretrain", "parts/train/good", "--out", "general.safetensors", "--config", str(recipe_file)]
        if texts["model"].get("backbone"):
            general += ["--set", "model.backbone=''"]
        cli.app([*general, "--quiet"], standalone_mode=False)
        command = ["train", "parts", "--out", "made", "--config", str(recipe_file), "--general", "general.safetensors"]
        if texts["image"].get("ignore"):
            mask = np.zeros((96, 96), np.uint8)
            mask[:12, :20] = 255
            import_module("flawmap.data.images").write_image(Path("ignore.png"), mask)
        if texts["model"].get("backbone"):
            sys.path.append(str(Path(__file__).parents[1] / "backbones"))
            networks = import_module("networks")
            torch.manual_seed(0)
            networks.written(networks.Plain(), Path("own.onnx"))
        if names:
            Path("defects").mkdir()
            for file in sorted(Path("parts/ground_truth").glob("*/*"))[:2]:
                stem = file.stem.removesuffix("_mask")
                shutil.copy(f"parts/test/{file.parent.name}/{stem}.png", f"defects/{file.parent.name}-{stem}.png")
                shutil.copy(file, f"defects/{file.parent.name}-{stem}_mask.png")
            command += ["--defects", "defects", "--contamination", "10%"]
        cli.app([*command, "--quiet"], standalone_mode=False)
        if not photos.exists():
            photos.mkdir(parents=True)
            surfaces.write_sample_parts(Path("new"), "brushed-metal", 96, 1, 2, 2, 7)
            for number, file in enumerate(sorted(Path("new/test").glob("*/*.png"))):
                shutil.copy(file, photos / f"{number}-{file.parent.name}.png")
        out.mkdir(parents=True)
        shutil.copy(recipe_file, out / "trained.toml")
        rows = [f'"{file.name}": {json.dumps(figures(Path("made"), file))}' for file in sorted(photos.glob("*.png"))]
        (out / "expected.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
        for file in sorted(Path("made").iterdir()):
            if file.suffix != ".safetensors":
                shutil.copy(file, out)
                continue
            with (out / f"{file.name}.gz").open("wb") as stream:
                stream.write(gzip.compress(file.read_bytes(), 9, mtime=0))


def figures(bundle: Path, photo: Path) -> dict[str, Any]:
    """What a bundle says of a photo, and some of its map."""
    flawmap = import_module("flawmap")
    found = flawmap.load(bundle, "cpu", 1).inspect(photo)
    opened = flawmap.load_bundle(bundle)
    (checked,) = import_module("flawmap.deploy.check").check_photos(opened, opened.photos, [photo], "cpu")
    return {
        "score": found.score,
        "threshold": found.threshold,
        "defective": found.defective,
        "p_value": found.p_value,
        "regions": len(found.regions),
        "map": {
            "shape": list(found.map.shape),
            "largest": float(found.map.max()),
            "mean": float(found.map.mean()),
            "values": [[row, column, float(found.map[row, column])] for row, column in PLACES],
        },
        "object_reconstruction_mean": float(found.object_image.mean()),
        "general_reconstruction_mean": float(found.general_image.mean()),
        "drift_figures": [float(value) for value in checked.figures],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*(Path(argument).absolute() for argument in sys.argv[1:4]))
