"""How small a defect is found, as a function: what `flawmap limits` does (deploy/limits.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flawmap.analysis.opening import Named, Photos, Say, Watch, inspector_of, out_of, photos_of, silent, unwatched
from flawmap.bundle import Bundle
from flawmap.deploy.batch import prepare_folder, refuse_folder
from flawmap.deploy.inspector import Inspector
from flawmap.deploy.limits import (
    CONTRASTS,
    SIZES,
    Limit,
    Trial,
    check_photos,
    lines,
    run_trials,
    summarise,
    write_limits,
)
from flawmap.errors import ConfigError
from flawmap.given import refuse_odd_number


@dataclass(frozen=True)
class DetectionLimits:
    """A limit for each contrast, the faintest first, and every defect that was drawn. As text, a table."""

    limits: list[Limit]
    trials: list[Trial]

    def __repr__(self) -> str:
        contrasts = ", ".join(f"{limit.contrast:g}" for limit in self.limits)
        return f"<DetectionLimits of {len(self.trials)} drawn defects, contrasts {contrasts}>"

    def __str__(self) -> str:
        return "\n".join(lines(self.limits))


def detection_limits(
    bundle: Bundle | Inspector | Named,
    images: Photos,
    out: Named | None = None,
    *,
    shape: str = "spot",
    sizes: Sequence[float] = SIZES,
    contrasts: Sequence[float] = CONTRASTS,
    photos: int = 30,
    seed: int = 0,
    overwrite: bool = False,
    device: str = "auto",
    say: Say = silent,
    watch: Watch = unwatched,
) -> DetectionLimits:
    """Measure how small a defect is found: probability of detection against size and contrast, with a90/95.

    images: good photos that were not learnt from, of which at most `photos` are drawn into
    shape: `spot`, its size a diameter, or `line`, its size a length; sizes: in pixels of the image files
    contrasts: shares of the range from black to white, in (0, 1)
    out: a folder for index.html, limits.json and trials.csv
    say: is told what is passed over, a line each; watch: shows how far it is

    Raises ConfigError, BundleError without a threshold, DataError, ImageError.
    """
    refuse_odd_number("photos", photos)
    refuse_odd_number("seed", seed, 0)
    for name, numbers in (("sizes", sizes), ("contrasts", contrasts)):
        if isinstance(numbers, str) or not isinstance(numbers, Iterable):
            raise ConfigError(f"{name}={numbers!r}: expected a list of numbers")
        for number in numbers:
            refuse_odd_number(name, number, whole=False)
    if not sizes or not all(0 < size < 1e6 for size in sizes):
        raise ConfigError(f"sizes {list(sizes)}: expected numbers of pixels above 0, as [2, 4, 8]")
    if not contrasts or not all(0 < contrast < 1 for contrast in contrasts):
        raise ConfigError(f"contrasts {list(contrasts)}: expected shares between 0 and 1, as [0.05, 0.2]")
    if photos < 2:
        raise ConfigError(f"photos={photos}: expected 2 or more")
    folder = out_of(out)
    paths = check_photos(photos_of(images, say), photos, seed)
    inspector = inspector_of(bundle, device)
    if folder is not None:
        refuse_folder(folder, overwrite)
    asked = sorted(set(map(float, sizes))), sorted(set(map(float, contrasts)))
    drawn = run_trials(inspector, paths, sizes=asked[0], contrasts=asked[1], shape=shape, seed=seed, say=say)
    trials = watch(drawn, len(paths) * len(asked[0]) * len(asked[1]), "defects drawn and inspected")
    found = DetectionLimits(summarise(trials), trials)
    if folder is not None:
        used = len({trial.image for trial in trials})
        prepare_folder(folder, ("index.html", "limits.json", "trials.csv"), overwrite)
        facts = {"bundle": inspector.source, "shape": shape, "photos": used, "trials": len(trials), "seed": seed}
        write_limits(folder, trials, found.limits, facts)
    return found
