"""Familiarity and threshold of a trained bundle fitted anew, with other kinds of features; the networks stay.

    python bench/refit.py part.bundle parts --familiarity encoder,local,detection --out again.bundle
    flawmap evaluate again.bundle parts

`parts` and the seed must be those of the training: the same photos are held out. So what a kind of features brings is
told of the same weights, without training again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from flawmap.bundle import build, load_bundle, load_imagenet, save_bundle
from flawmap.config import load_recipe
from flawmap.data.layouts import read_layout
from flawmap.data.scope import Scope
from flawmap.devices import pick_device
from flawmap.measure.threshold import Groups, choose_threshold
from flawmap.model.imagenet import ImageNetFeatures
from flawmap.model.onnx_backbone import BackboneFeatures
from flawmap.train.familiar import CrossFit
from flawmap.train.sources import GoodParts
from flawmap.train.split import cross_fitted, hold_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--familiarity", required=True, help="kinds of features, with commas between them")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="model.NAME=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    bundle = load_bundle(chosen.bundle)
    recipe = load_recipe(chosen.bundle / "recipe.toml", chosen.settings)
    settings = recipe.model.model_copy(update={"familiarity": tuple(chosen.familiarity.split(","))})
    recipe = recipe.model_copy(update={"model": settings})
    good = sorted(sample.image for sample in read_layout(chosen.data).train_good)
    trained, held_out = hold_out(good, recipe.threshold, recipe.run.seed, cross_fitted(recipe))
    own = bundle.model.imagenet
    model = build(settings, False, own.backbone if isinstance(own, BackboneFeatures) else None)
    weights = model.state_dict()
    model.load_state_dict({name: bundle.model.state_dict().get(name, tensor) for name, tensor in weights.items()
                           if not name.startswith("familiarity.")}, strict=False)  # fmt: skip
    if isinstance(model.imagenet, ImageNetFeatures):
        load_imagenet(model.imagenet)
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    scope = Scope(recipe.image, bundle.ignore)
    parts = (GoodParts(paths, recipe, scope) for paths in (trained, held_out))
    fitting = CrossFit(model, *parts, recipe, pick_device("auto"))
    found_by = fitting.fit()
    if model.familiarity is None:
        raise SystemExit("none of these kinds serves; nothing was written")
    scores, peaks = fitting.scores()
    independent = fitting.independent.facts() if fitting.independent is not None else {}
    limits = choose_threshold(
        scores, peaks, recipe.threshold.overkill, "cross-fitted good", fitting.folders, recipe.threshold.tail,
        groups=Groups.of({"groups": independent}),
    )  # fmt: skip
    provenance = {
        **bundle.provenance,
        "evidence": {name: round(value, 3) for name, value in found_by.items()},
        "held_out_scores": scores,
        "held_out_peaks": peaks,
        "groups": independent,
    }
    kept = settings.model_copy(update={"familiarity": model.familiarity.sources})
    again = replace(
        bundle, model=model, recipe=recipe.model_copy(update={"model": kept}), threshold=limits,
        provenance=provenance, evidence=fitting.told,
    )  # fmt: skip
    save_bundle(again, chosen.out)
    print(f"{provenance['evidence']}, of which {', '.join(model.familiarity.sources)} are kept; wrote {chosen.out}")


if __name__ == "__main__":
    main()
