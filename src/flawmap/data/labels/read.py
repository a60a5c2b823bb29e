"""Label files of any known format, recognised by what is in them, and their masks beside the photos they are of.

All is read, matched and drawn before the folder of masks appears: it is whole, or it is not there.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar
from xml.etree import ElementTree

import numpy as np

from flawmap.data.filekinds import SPECIAL, kind_of, special
from flawmap.data.images import Mask, read_shape, write_image
from flawmap.data.labels import coco, cvat, label_studio, labelme, severstal, voc, yolo
from flawmap.data.labels.shapes import Labelled
from flawmap.data.layouts import gather
from flawmap.errors import ConfigError, DataError, one_line
from flawmap.given import place_given

FORMATS = ("labelme", "COCO", "YOLO segmentation", "CVAT", "PASCAL VOC", "Label Studio", "Severstal")
READ = (".json", ".xml", ".txt", ".csv")
Read = TypeVar("Read")
NAMES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names", "labelmap.txt")


@dataclass(frozen=True)
class Written:
    """What was written: photos with a mask; of each class, how many areas; remarks, a line each."""

    masks: dict[Path, Path]
    classes: dict[str, int]
    remarks: list[str]


def write_masks(
    labels: str | Path | Sequence[str | Path],
    photos: str | Path | Sequence[str | Path],
    out: str | Path,
    classes: Iterable[str] = (),
    overwrite: bool = False,
) -> Written:
    """Write the areas that label files mark as masks for flawmap: PNG, 0 and 255, of the photo's size and name.

    labels: files, or folders of them; photos: folders, or files; out: a folder, in which masks lie as the photos do
    below theirs; classes: these alone count, as defective; none: all

    Photos that are labelled with nothing, or not labelled at all, have no mask. Raises DataError for a label file that
    is broken or of another size than its photo, naming it, ConfigError for an unknown class and for `out` in the way.
    """
    out, wanted = place_given(out, "out", ConfigError), [classes] if isinstance(classes, str) else list(classes)
    roots = [place_given(each, "photos") for each in _each(photos)]
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise ConfigError(f"{out} exists and is not empty; choose another --out, or --overwrite it")
    found, remarks = read_labels([place_given(each, "labels") for each in _each(labels)])
    masks = {label.source.absolute() for label in found}  # of PASCAL VOC, in a folder beside the photos'
    gathered = gather(roots)
    if gathered.hidden:
        remarks.append(f"passed over {len(gathered.hidden)} hidden images: {_some(gathered.hidden)}")
    below = {
        path: _below(path, roots)
        for path in gathered.images
        if not path.is_relative_to(out) and path.absolute() not in masks
    }
    matched, lost = _matched(found, below)
    counts = Counter(shape.kind for label in found for shape in label.shapes if not shape.erases)
    if unknown := [name for name in wanted if name not in counts]:
        known = ", ".join(sorted(counts)) or "none"
        raise ConfigError(f"no class {unknown[0]} is marked in {found[0].source.parent}; there are: {known}")
    if not matched:
        raise DataError(
            f"none of the {len(found)} labelled photos is in {roots[0]}, as {found[0].image}; give its folder"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    saving = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        written, empty = _written(matched, below, saving, wanted)
        if not written:
            raise DataError("nothing is marked on any of these photos" + " in these classes" * bool(wanted))
        _replace(saving, out, [name.with_suffix(".png") for name in below.values()])
    except OSError as problem:
        raise DataError(f"cannot write to {out}: {problem.strerror or problem}") from problem
    finally:
        shutil.rmtree(saving, ignore_errors=True)
    remarks += _remarks(found, lost, empty, [path for path in below if path not in matched])
    kept = {kind: count for kind, count in sorted(counts.items()) if not wanted or kind in wanted}
    return Written({path: out / name for path, name in written.items()}, kept, remarks)


def read_labels(sources: Sequence[Path]) -> tuple[list[Labelled], list[str]]:
    """What label files say of photos, and a remark for each kind of file that was passed over.

    Raises DataError for a file that is broken, and where none of them holds labels.
    """
    files: list[Path] = []
    remarks: list[str] = []
    for source in sources:
        if source.is_dir():
            odd = [path for path in sorted(source.rglob("*")) if special(path) is not None]
            remarks += [f"passed over {path}: a {special(path)}, no file" for path in odd]
            inside = sorted(path for path in source.rglob("*") if path.is_file())
            files += [path for path in inside if not path.name.startswith(".")]
        elif source.exists():
            kind = kind_of(source)
            if kind.group in ("archive", "video", "document") or kind.words in SPECIAL:
                what = {"archive": "unpack it and give the folder"}.get(kind.group, "give the label files")
                raise DataError(f"{source} is {kind.a}, no label file; {what}")
            if kind.group == "image" and source.suffix.lower() != ".png":
                raise DataError(f"{source} is {kind.a}, no label file; give one of {', '.join(FORMATS)}")
            files.append(source)
        else:
            raise DataError(f"{source}: there is no such file or folder")
    texts = [path for path in files if path.suffix.lower() in READ and path.name.lower() not in NAMES]
    found: list[Labelled] = []
    passed: list[Path] = []
    for path in texts:
        photos = _of_text(path)
        if photos is None:
            passed.append(path)
        else:
            found += photos
    if not found:  # pictures beside label files are photos
        named = _named(files, "labelmap.txt")
        colours = {} if named is None else _sound(named, lambda: voc.label_map(_text(named)))
        masks = [path for path in files if path.suffix.lower() == ".png"]
        found = [label for path in masks for label in _sound(path, lambda path=path: voc.read(path, colours))]  # type: ignore[misc]
    if not found:
        what = f"{sources[0]}: no label file" + (f" ({passed[0].name} is none that is known)" if passed else "")
        raise DataError(f"{what}; expected one of {', '.join(FORMATS)}")
    more = f" and {len(passed) - 1} more" if len(passed) > 1 else ""
    return found, remarks + ([f"passed over as no labels: {passed[0].name}{more}"] if passed else [])


def _of_text(path: Path) -> list[Labelled] | None:
    """The photos of one text file, None where it holds no labels. Raises DataError for a broken one."""
    suffix = path.suffix.lower()
    text = _text(path)
    if suffix == ".json":
        document = _sound(path, lambda: json.loads(text))
        if labelme.fits(document):
            return _sound(path, lambda: labelme.read(document, path))
        if coco.fits(document):
            return _sound(path, lambda: coco.read(document, path))
        return _sound(path, lambda: label_studio.read(document, path)) if label_studio.fits(document) else None
    if suffix == ".xml":
        if "<!ENTITY" in text:
            raise DataError(f"{path}: it declares entities, which no label tool does; export it again")
        root = _sound(path, lambda: ElementTree.fromstring(text))
        return _sound(path, lambda: cvat.read(root, path)) if cvat.fits(root) else None
    if severstal.fits(text):
        return _sound(path, lambda: severstal.read(text, path))
    if suffix == ".txt" and (yolo.fits(text) or _numeric(text)):
        return _sound(path, lambda: yolo.read(text, path, _names(path)))
    return None


def _numeric(text: str) -> bool:
    """Whether a text begins as YOLO's does, so that a broken line in it is a fault, not another kind of file."""
    words = text.split(maxsplit=2)[:2]
    return len(words) == 2 and words[0].isdigit() and words[1].replace(".", "", 1).isdigit()


def _sound(path: Path, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except RecursionError:
        raise DataError(f"{path}: it is nested too deeply to be a label file; export it again") from None
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        OverflowError,
        OSError,
        SyntaxError,
        csv.Error,
    ) as problem:
        reason = f"lacks {problem}" if isinstance(problem, KeyError) else (str(problem).splitlines() or ["damaged"])[0]
        if reason.startswith(("int() argument", "float() argument", "invalid literal for", "could not convert")):
            reason = "a number is missing, or something else stands in its place"
        raise DataError(f"{path}: not a usable label file ({reason}); correct or export it again") from problem


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path}: not UTF-8 text; export it again") from problem
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror})") from problem


def _names(path: Path) -> dict[int, str]:
    """Names of YOLO's classes, from the nearest data.yaml, classes.txt or obj.names above a label file."""
    for folder in list(path.absolute().parents)[:4]:
        for name in ("data.yaml", "dataset.yaml", "classes.txt", "obj.names"):
            if (folder / name).is_file():
                return yolo.class_names(_text(folder / name), ".txt" if name == "obj.names" else Path(name).suffix)
    return {}


def _named(files: Sequence[Path], name: str) -> Path | None:
    near = [*files, *(folder / name for path in files[:1] for folder in list(path.absolute().parents)[:3])]
    return next((path for path in near if path.name.lower() == name and path.is_file()), None)


def _each(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    if not isinstance(paths, str | os.PathLike | Iterable):
        raise DataError(f"labels and photos are files and folders, as text or Path, not {type(paths).__name__}")
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _below(path: Path, roots: Sequence[Path]) -> PurePosixPath:
    for root in roots:
        if root.is_dir() and path.is_relative_to(root):
            return PurePosixPath(path.relative_to(root).as_posix())
    return PurePosixPath(path.name)


def _matched(
    found: Sequence[Labelled], below: dict[Path, PurePosixPath]
) -> tuple[dict[Path, list[Labelled]], list[Labelled]]:
    """The labels of each photo, and those of photos that are not there. Raises DataError where several could be meant.

    A label's path agrees with a photo's from its end on, by as many folders as tell the photos apart.
    """
    by_name: dict[str, list[Path]] = {}
    by_stem: dict[str, list[Path]] = {}
    for path in below:
        by_name.setdefault(path.name.lower(), []).append(path)
        by_stem.setdefault(path.stem.lower(), []).append(path)
    matched: dict[Path, list[Labelled]] = {}
    lost = []
    for label in found:
        told = PurePosixPath(label.image)
        if label.stem:
            near = by_stem.get(told.name.lower(), [])
            folders = label.source.parent.parts
        else:
            near = by_name.get(told.name.lower(), []) or by_stem.get(told.name.lower(), [])
            folders = told.parent.parts
        if not near:
            lost.append(label)
            continue
        agreeing = [_agreeing(folders, path.parent.parts) for path in near]
        best = [path for path, count in zip(near, agreeing, strict=True) if count == max(agreeing)]
        if len(best) > 1:
            raise DataError(
                f"{label.source}: {label.image} could be {best[0]} or {best[1]}; give the folder of one of them"
            )
        matched.setdefault(best[0], []).append(label)
    return matched, lost


def _agreeing(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one.lower() != other.lower():
            break
        count += 1
    return count


def _written(
    matched: dict[Path, list[Labelled]], below: dict[Path, PurePosixPath], folder: Path, wanted: Sequence[str]
) -> tuple[dict[Path, PurePosixPath], list[Path]]:
    """(the mask of each photo, below `folder`; photos on which nothing is marked)."""
    written: dict[Path, PurePosixPath] = {}
    empty: list[Path] = []
    taken: dict[PurePosixPath, Path] = {}
    for photo in sorted(matched):
        mask = _drawn(photo, matched[photo], wanted)
        if not mask.any():
            empty.append(photo)
            continue
        name = below[photo].with_suffix(".png")
        if name in taken:
            raise DataError(f"{photo} and {taken[name]} would have one mask, {name}; rename one of them")
        taken[name] = photo
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, mask.astype(np.uint8) * np.uint8(255))
        written[photo] = name
    return written, empty


def _drawn(photo: Path, labels: Sequence[Labelled], wanted: Sequence[str]) -> Mask:
    height, width = read_shape(photo)
    mask = np.zeros((height, width), np.bool_)
    for label in labels:
        if label.size is not None and label.size != (height, width):
            turned = "; the photo is turned by its EXIF data" if label.size == (width, height) else ""
            raise DataError(
                f"{label.source}: {label.image} is {label.size[1]}x{label.size[0]} pixels there, but {photo} "
                f"{width}x{height}{turned}; give the photos that were labelled"
            )
        own = np.zeros_like(mask)
        for shape in label.shapes:
            if wanted and not shape.erases and shape.kind not in wanted:
                continue
            area = _sound(label.source, lambda shape=shape: shape.draw(height, width))  # type: ignore[misc]
            own = own & ~area if shape.erases else own | area
        mask |= own
    return mask


def _replace(saving: Path, out: Path, own: Iterable[PurePosixPath]) -> None:
    """Put the new masks at their place; those an earlier run made of the same photos, `own`, go."""
    saving.chmod(0o777 & ~_umask())
    if out.exists():
        for name in own:
            (out / name).unlink(missing_ok=True)
        for path in sorted(saving.rglob("*.png")):
            place = out / path.relative_to(saving)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
    else:
        saving.rename(out)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remarks(
    found: Sequence[Labelled], lost: Sequence[Labelled], empty: Sequence[Path], bare: Sequence[Path]
) -> list[str]:
    remarks = []
    if lost:
        remarks.append(f"{len(lost)} labelled photos are not there: {_some(label.image for label in lost)}")
    if empty:
        remarks.append(f"{len(empty)} photos are labelled with nothing that counts and have no mask: {_some(empty)}")
    if bare:
        remarks.append(f"{len(bare)} photos are not labelled and have no mask: {_some(bare)}")
    said = Counter(label.remark for label in found if label.remark)
    remarks += [
        one_line(f"{next(one for one in found if one.remark == text).image}: {text}") for text in list(said)[:3]
    ]
    if len(said) > 3:
        remarks.append(f"and {sum(said.values()) - 3} more photos of that kind")
    return remarks


def _some(names: Iterable[object]) -> str:
    first, *rest = [one_line(name) for name in names]
    return first + (f" and {len(rest)} more" if rest else "")
