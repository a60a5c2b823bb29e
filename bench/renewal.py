"""What `flawmap refine` gains on a new batch of material, and what it loses on the old test.

    python bench/renewal.py --bundle part.bundle --data DIR --name kolektor [--light 0.8] [--photos 20] [--write]
    python bench/renewal.py --bundle part.bundle --data DIR --name kolektor --alarms 0.2 [--write]

The new batch is made up: photos in another light. Some good training photos in that light are taken in; measured are
the good test photos in that light, and the test as it is, before and after.

--alarms: what confirmed false alarms bring. At a threshold for so much overkill, the good test photos that are rejected
are false alarms; those among every other good test photo are taken in. Measured are these, the good test photos that
were not up for being taken in, and the defects, before and after.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import write_result
from flawmap.bundle import Bundle, load_bundle
from flawmap.data.images import read_image, write_image
from flawmap.data.layouts import Listing, read_layout
from flawmap.deploy.evaluation import threshold_at
from flawmap.deploy.inspector import Inspector
from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.train.renew import renew


def figures(bundle: Bundle, photos: list[Path], defective: np.ndarray[Any, Any], light: float) -> dict[str, float]:
    """Of the test as it is, and overkill on its good photos in another light."""
    assert bundle.threshold is not None
    inspector, limit = Inspector(bundle, "cpu"), bundle.threshold.score
    scores = np.array([inspector.inspect(photo).score for photo in photos])
    lit = [inspector.inspect(light * read_image(photo)).score for photo in np.array(photos)[~defective]]
    return {
        "threshold": limit,
        "image_auroc": image_auroc(defective, scores),
        "image_ap": image_ap(defective, scores),
        "escape": float((scores[defective] <= limit).mean()),
        "overkill": float((scores[~defective] > limit).mean()),
        "overkill_in_new_light": float((np.array(lit) > limit).mean()),
    }


def alarms(bundle: Bundle, path: Path, listing: Listing, overkill: float) -> dict[str, Any]:
    """What taking in confirmed false alarms changes, at a threshold for that overkill."""
    bundle = dataclasses.replace(bundle, threshold=threshold_at(bundle, overkill))
    good = sorted(sample.image for sample in listing.test if sample.defective is False)
    bad = sorted(sample.image for sample in listing.test if sample.defective)
    asked, others = good[::2], good[1::2]

    def rejected(by: Bundle, photos: list[Path]) -> list[Path]:
        assert by.threshold is not None
        inspector = Inspector(by, "cpu")
        return [photo for photo in photos if inspector.inspect(photo).score > by.threshold.score]

    taken = rejected(bundle, asked)
    started = time.monotonic()
    renewed, _ = renew(bundle, path, taken)
    minutes = (time.monotonic() - started) / 60
    shares = {
        when: {
            "threshold": by.threshold.score if by.threshold else None,
            "of those taken in": len(rejected(by, taken)) / len(taken),
            "of the other half": len(rejected(by, others)) / len(others),
            "escape": 1 - len(rejected(by, bad)) / len(bad),
        }
        for when, by in (("before", bundle), ("after", renewed))
    }
    return {"overkill": overkill, "taken_in": len(taken), "others": len(others), "minutes": round(minutes, 2), **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--light", type=float, default=0.8, help="brightness of the new batch against the old")
    parser.add_argument("--photos", type=int, default=20, help="good photos of it that are taken in")
    parser.add_argument("--alarms", type=float, default=0.0, help="overkill at which false alarms are taken in")
    parser.add_argument("--write", action="store_true", help="write bench/results/renewal-NAME-….json")
    chosen = parser.parse_args()
    listing = read_layout(chosen.data)
    if chosen.alarms:
        found = alarms(load_bundle(chosen.bundle), chosen.bundle, listing, chosen.alarms)
        print(found)
        if chosen.write:
            write_result(f"renewal-{chosen.name}-alarms", "alarms", {"name": chosen.name, **found}, "cpu")
        return
    good = sorted(sample.image for sample in listing.train_good)
    tested = [sample for sample in listing.test if sample.defective is not None]
    photos, defective = [sample.image for sample in tested], np.array([bool(sample.defective) for sample in tested])
    bundle = load_bundle(chosen.bundle)
    before = figures(bundle, photos, defective, chosen.light)
    with tempfile.TemporaryDirectory() as folder:
        taken = [good[index] for index in np.linspace(0, len(good) - 1, chosen.photos).astype(int)]
        batch = []
        for number, photo in enumerate(taken):
            batch.append(Path(folder) / f"{number:03}.png")
            write_image(batch[-1], (255 * chosen.light * read_image(photo)).round().astype(np.uint8))
        started = time.monotonic()
        renewed, _ = renew(bundle, chosen.bundle, batch)
        minutes = (time.monotonic() - started) / 60
    after = figures(renewed, photos, defective, chosen.light)
    result = {
        "name": chosen.name,
        "light": chosen.light,
        "photos": chosen.photos,
        "minutes": round(minutes, 2),
        "good": int((~defective).sum()),
        "defective": int(defective.sum()),
        "before": before,
        "after": after,
    }
    for key in before:
        print(f"{key:<24} {before[key]:.3f} -> {after[key]:.3f}")
    print(f"{minutes:.2f} minutes for {chosen.photos} photos")
    if chosen.write:
        write_result(f"renewal-{chosen.name}-light{100 * chosen.light:.0f}", "renewal", result, "cpu")


if __name__ == "__main__":
    main()
