"""Good photos that look defective, as a function: what `flawmap suspects` lists (deploy/suspects.py).

Of a bundle, each photo was scored by what the other photos tell. Of photos before any training, the score is how many
deviations a photo is from the others by features that learnt nothing of the part (train/contamination.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from flawmap.analysis.opening import Named, Say, bundle_of, silent
from flawmap.bundle import Bundle
from flawmap.bundle_facts import NOTE
from flawmap.config import load_recipe
from flawmap.data.layouts import Listing
from flawmap.data.layouts.read import listing_of
from flawmap.data.scope import read_scope
from flawmap.deploy.inspector import Inspector
from flawmap.deploy.suspects import Suspect, suspects
from flawmap.devices import pick_device
from flawmap.errors import DataError
from flawmap.given import place_given, refuse_odd_number
from flawmap.train.contamination import most, to_look_with
from flawmap.train.run import look_before, own_backbone
from flawmap.train.sources import sized
from flawmap.train.white import settled_white


def outliers(
    source: Bundle | Inspector | Listing | Named,
    top: int | None = None,
    *,
    config: str | PathLike[str] = "fast",
    settings: Sequence[str] = (),
    device: str = "auto",
    name: str = "",
    say: Say = silent,
) -> list[Suspect]:
    """List good photos by how much they look like defective ones, the most suspicious first.

    source: a bundle, or its folder; or the photos before any training, as a folder, a csv or `read_layout` gives them,
    which are looked at as the recipe `config` with `settings` would
    top: how many at most; None: all, and those set aside in any case
    name: of a bundle that is open already, in messages
    say: is told what is passed over, and of the full white of photos before any training, a line each

    Raises BundleError for a bundle that does not know its photos' scores, LayoutError, DataError, ImageError.
    """
    if top is not None:
        refuse_odd_number("top", top, 0)
    if not isinstance(source, Bundle | Inspector | Listing):
        place = place_given(source, "a bundle or photos", DataError)
        source = place if (place / NOTE).exists() else listing_of(place, say)
    if isinstance(source, Listing):
        return _before(source, top, config, list(settings), device, say)
    bundle, known = bundle_of(source)
    found = suspects(bundle, name or known)
    return [suspect for rank, suspect in enumerate(found) if top is None or rank < top or suspect.set_aside]


def _before(
    listing: Listing, top: int | None, config: str | PathLike[str], settings: list[str], device: str, say: Say
) -> list[Suspect]:
    good = sorted(sample.image for sample in listing.train_good)
    if len(good) < 2:
        raise DataError(f"{listing.name} holds {len(good)} good photos; two or more can be compared with each other")
    recipe = load_recipe(Path(config) if isinstance(config, PathLike) else config, settings)
    image, _ = settled_white(recipe.image, good, say=say)
    recipe = sized(recipe.model_copy(update={"image": image}), good)
    backbone = own_backbone(to_look_with(recipe))
    scores = look_before(good, recipe, read_scope(recipe.image), None, pick_device(device), backbone).tolist()
    return [Suspect(str(good[index]), float(scores[index])) for index in most(scores, top or len(good))]
