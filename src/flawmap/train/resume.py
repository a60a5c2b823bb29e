"""What an unfinished training was begun with, by hashes: it goes on with the same photos, masks and models, or not.

A name says nothing: the folder of a product may hold another one by now, and a photo that is added changes which ones
are held out, so that some that were learnt from would set the threshold.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flawmap.bundle import sha256
from flawmap.config import Recipe, dump_recipe
from flawmap.data.layouts import Sample
from flawmap.errors import CheckpointError, DataError, TrainingError, first_line
from flawmap.model.discrete import DiscreteModel
from flawmap.train.loop import write_atomically
from flawmap.train.sources import names_of

BEGUN_WITH = "begun-with.json"
GOOD, DEFECTIVE, MASKS, FILES = "good photos", "defective photos", "masks", "files"
SHOWN = 3  # names of each kind of difference
UNCHECKED = (
    "was begun by an earlier flawmap, which kept no hashes of its photos: that these are the same cannot be checked"
)
Given = dict[str, dict[str, str]]  # by kind of file: the SHA-256 of each by its name


def given_to(
    good: Sequence[Path], defects: Sequence[Sample], recipe: Recipe, general: DiscreteModel | None
) -> Given:  # fmt: skip
    """What a training is given: good photos, defective ones and their masks, the ignore mask, prior and general model.

    Raises DataError for a file that cannot be read.
    """
    found: Given = {GOOD: dict(zip(names_of(good, good), _hashes(good), strict=True))}
    if defects:
        images = [sample.image for sample in defects]
        names = names_of(images, images)
        masked = [(name, sample.masks) for name, sample in zip(names, defects, strict=True) if sample.masks]
        found[DEFECTIVE] = dict(zip(names, _hashes(images), strict=True))
        found[MASKS] = {name: "+".join(_hashes(masks)) for name, masks in masked}
    named = {"image.ignore": recipe.image.ignore, "model.prior": recipe.model.prior}
    files = {name: Path(value) for name, value in named.items() if value and Path(value).is_file()}
    found[FILES] = dict(zip(files, _hashes([*files.values()]), strict=True))
    if general is not None:
        found[FILES]["--general"] = _of_model(general)
    return found


def check_same(folder: Path, given: Given) -> bool:
    """Whether the unfinished training in `folder` is known to have begun with what is `given`.

    False where it was begun by an earlier flawmap, which kept no hashes, or none was begun. Raises TrainingError that
    says what differs, CheckpointError when the note of what it began with cannot be read.
    """
    file = folder / BEGUN_WITH
    if not file.exists():
        return False
    try:
        begun = _checked(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as problem:
        raise CheckpointError(
            f"{file} is not readable ({first_line(problem)}); delete {folder} to start anew"
        ) from problem
    told = [
        f"{kind}: {', '.join(found)}"
        for kind in {**begun, **given}
        if (found := differences(begun.get(kind, {}), given.get(kind, {})))
    ]
    if told:
        raise TrainingError(
            f"{folder} was begun with other files; {'; '.join(told)}; put back what it was begun with, or delete "
            f"{folder} to start anew"
        )
    return True


def note_given(folder: Path, given: Given) -> None:
    """Note in the folder of a training what it begins with."""
    write_atomically(folder / BEGUN_WITH, json.dumps(given, indent=0))


def differences(begun: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """How the files given differ from those begun with, hashes by name: as `2 added (a.png, b.png)`.

    Files that only lie in other folders are not told as added and removed.
    """
    if begun == given:
        return []
    changed = [name for name in begun if name in given and begun[name] != given[name]]
    before = Counter({(Path(name).name, value): 1 for name, value in begun.items() if name not in changed})
    after = Counter({(Path(name).name, value): 1 for name, value in given.items() if name not in changed})
    kinds = {
        "added": [name for name, _ in (after - before).elements()],
        "removed": [name for name, _ in (before - after).elements()],
        "changed": changed,
    }
    found = [f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds.items() if names]
    return found or ["the same files, in other folders"]


def check_recipe(noted: Recipe, recipe: Recipe, note: Path) -> None:
    """Raises TrainingError, which names a setting, when a training is to go on with another recipe than `noted`."""
    before, after = (each.model_dump(mode="json") for each in (noted, recipe))
    for section, values in after.items():
        for name, value in values.items():
            if before[section][name] != value:
                raise TrainingError(
                    f"{note} differs from the recipe given: {section}.{name} is {json.dumps(before[section][name])} "
                    f"there, and {json.dumps(value)} here; resume with the settings it was started with"
                )


def given_to_pretraining(images: Sequence[Path], recipe: Recipe, general: Path | None) -> Given:
    """What a pretraining is given; of the recipe, its text counts as a file."""
    files = {"--general": general} if general is not None else {}
    if recipe.model.prior and Path(recipe.model.prior).is_file():
        files["model.prior"] = Path(recipe.model.prior)
    found = dict(zip(files, _hashes([*files.values()]), strict=True))
    found["the recipe's settings"] = hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()
    return {"images": dict(zip(names_of(images, images), _hashes(images), strict=True)), FILES: found}


def _hashes(files: Sequence[Path]) -> list[str]:
    try:
        return [hash_of(file) for file in files]
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read ({problem.strerror}); correct or remove it") from problem


def hash_of(file: Path) -> str:
    """SHA-256 of a file, or of a folder of masks, one for each defect of a photo. Raises OSError."""
    if not file.is_dir():
        return sha256(file)
    inside = sorted(each for each in file.rglob("*") if each.is_file())
    told = [(each.relative_to(file).as_posix(), sha256(each)) for each in inside]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _of_model(model: DiscreteModel) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _checked(note: Any) -> Given:
    good = isinstance(note, dict) and all(
        isinstance(files, dict) and all(isinstance(value, str) for value in files.values()) for files in note.values()
    )
    if not good:
        raise ValueError("not hashes by name")
    found: Given = note
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN]) + (", …" if len(names) > SHOWN else "")
