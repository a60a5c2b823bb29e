"""Whether the same part gets the same verdict again, as a function: what `flawmap repeat` does (deploy/repeat.py)."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from flawmap.analysis.opening import (
    Named,
    Photos,
    Say,
    Watch,
    inspector_of,
    out_of,
    photos_of,
    place_of,
    silent,
    unwatched,
)
from flawmap.bundle import Bundle
from flawmap.deploy.batch import prepare_folder, refuse_folder
from flawmap.deploy.inspector import Inspector
from flawmap.deploy.repeat import (
    Jitter,
    Repeatability,
    repeat_folders,
    repeat_photos,
    shots_of_folders,
    summarise,
    write_repeat,
)
from flawmap.errors import BundleError, ConfigError
from flawmap.given import place_given, refuse_odd_number


def repeatability(
    bundle: Bundle | Inspector | Named,
    parts: Photos,
    out: Named | None = None,
    *,
    shots: int = 0,
    shift: float = 1.0,
    exposure: float = 0.02,
    noise: float = 0.005,
    seed: int = 0,
    overwrite: bool = False,
    device: str = "auto",
    say: Say = silent,
    watch: Watch = unwatched,
) -> Repeatability:
    """Measure whether the same part gets the same verdict again, over several shots of each part.

    parts: a folder that holds a folder of shots for each part; with `shots`, photos of which as many shots are made up
    shift: of made-up shots, pixels of the file; exposure, noise: shares of the range
    out: a folder for index.html, repeat.json and parts.csv; none inside `parts`, whose folders are parts
    say: is told what is passed over, a line each; watch: shows how far it is

    Raises ConfigError, BundleError without a threshold, LayoutError, DataError, ImageError.
    """
    refuse_odd_number("shots", shots)
    refuse_odd_number("seed", seed, 0)
    for name, number in (("shift", shift), ("exposure", exposure), ("noise", noise)):
        refuse_odd_number(name, number, whole=False)
    if shots == 1 or shots < 0:
        raise ConfigError(f"shots={shots}: it takes two or more to repeat; 0 takes those in folders")
    if not 0 <= shift < 1000 or not 0 <= exposure < 1 or not 0 <= noise < 1:
        raise ConfigError(
            f"shift={shift:g}, exposure={exposure:g}, noise={noise:g}: expected pixels, and shares below 1"
        )
    folder = out_of(out)
    inspector = inspector_of(bundle, device)
    if inspector.bundle.threshold is None:
        raise BundleError("the bundle has no threshold, so there are no verdicts; set one with flawmap threshold")
    if folder is not None:
        refuse_folder(folder, overwrite)
        if isinstance(parts, str | PathLike) and folder.resolve().is_relative_to(Path(parts).resolve()):
            raise ConfigError(f"--out {folder} lies inside {parts}, whose folders are parts; choose another")
    if shots:
        photos = photos_of(parts, say)
        made = repeat_photos(inspector, photos, shots, Jitter(shift, exposure, noise), seed)
        found = watch(made, len(photos), "photos repeated")
        light, grain = (f"{100 * share:.3g}%" for share in (exposure, noise))
        how = (
            f"{shots} shots of each photo, made up: moved by up to {shift:g} pixels, light within {light}, "
            f"noise of {grain}"
        )
    else:
        if isinstance(parts, list | tuple):
            raise ConfigError("give the folder that holds a folder of shots for each part, or shots=5 with photos")
        by_part = shots_of_folders(place_given(parts, "the folder of parts"), say)
        found = watch(repeat_folders(inspector, by_part), len(by_part), "parts inspected")
        how = "Shots as photographed, a folder a part"
    result = summarise(found, inspector.bundle.threshold.score)
    if folder is not None:
        prepare_folder(folder, ("index.html", "repeat.json", "parts.csv"), overwrite)
        facts = {"bundle": inspector.source, "photos": place_of(parts), "shots_are": how, "seed": seed}
        write_repeat(folder, found, result, facts)
    return result
