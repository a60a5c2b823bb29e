"""The files below a folder: the images that are read by their suffix, DICOM without one, and what else lies there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from flawmap.data.filekinds import SPECIAL, FileKind, kind_of, special
from flawmap.data.images import SUFFIXES
from flawmap.data.layouts.listing import EXPECTED, Split
from flawmap.errors import DataError, LayoutError
from flawmap.given import place_given

_CACHES = frozenset(
    {".git", ".svn", ".hg", ".thumbnails", ".cache", ".venv", ".ipynb_checkpoints", ".picasaoriginals", ".fseventsd"}
    | {".spotlight-v100", ".trashes", ".ds_store", ".dvc", ".idea", ".vscode"}
)


class Tree:
    """The files below a folder, and which of them a layout has accounted for."""

    def __init__(self, root: Path) -> None:
        self.root, self.used = root, set[Path]()
        self.files: list[Path] = []
        self.hidden: list[Path] = []
        problems: list[OSError] = []
        self.side_folders: list[Path] = []
        for folder, folders, names in os.walk(root, onerror=problems.append, followlinks=True):
            self.side_folders += [Path(folder, name) for name in sorted(folders) if is_side_folder(name)]
            folders[:] = [name for name in folders if not is_side_folder(name)]
            self.hidden += [Path(folder, name) for name in sorted([*folders, *names]) if name.startswith(".")]
            folders[:] = sorted(name for name in folders if not name.startswith(".") and not _loops(Path(folder, name)))
            self.files += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
        if problems:
            raise LayoutError(f"{problems[0].filename}: the folder cannot be read; change its permissions")
        plain = [path for path in self.files if special(path) is None]
        self.images_found = [path for path in plain if path.suffix.lower() in SUFFIXES or _is_bare_dicom(path)]
        self.read, self.present = set(self.images_found), set(plain)

    @cached_property
    def _lower(self) -> dict[tuple[Path, str], Path]:
        return {(path.parent, path.name.lower()): path for path in self.files if path in self.present}

    def images(self, *parts: str, deep: bool = False) -> list[Path]:
        """Images in a folder below the root, or anywhere under it."""
        folder = self.root.joinpath(*parts)
        if deep:
            return [path for path in self.images_found if path.is_relative_to(folder)]
        return [path for path in self.images_found if path.parent == folder]

    def folders(self, *parts: str) -> list[str]:
        """Names of the folders in a folder below the root, that hold images somewhere."""
        folder = self.root.joinpath(*parts)
        found = {
            path.relative_to(folder).parts[0]
            for path in self.images_found
            if path.is_relative_to(folder) and path.parent != folder
        }
        return sorted(found)

    def named(self, wanted: Callable[[str], bool], *parts: str) -> list[str]:
        """Those of `folders` whose name is `wanted`."""
        return [name for name in self.folders(*parts) if wanted(name)]

    def first(self, folder: Path, names: Iterable[str]) -> Path | None:
        """The first of the files `names` that `folder` holds; capitals matter only where both spellings are there."""
        names = list(names)
        exact = next((folder / name for name in names if folder / name in self.present), None)
        return exact or next(
            (self._lower[key] for name in names if (key := (folder, name.lower())) in self._lower), None
        )

    def others(self) -> list[tuple[Path, FileKind]]:
        """Files that are not read for their suffix or as they are hidden, also in hidden folders, with their kinds."""
        return [(path, kind_of(path)) for path in self.files if path not in self.read] + [
            (path, kind_of(path)) for path in self.hidden_files()
        ]

    def hidden_files(self) -> list[Path]:
        """Hidden files and all files of hidden folders, but not those that programs keep for themselves."""
        found = []
        for path in self.hidden:
            if is_cache(path.name):
                continue
            if path.is_dir():
                found += [Path(at, name) for at, _, names in os.walk(path) for name in sorted(names)]
            else:
                found.append(path)
        return found


def _is_bare_dicom(path: Path) -> bool:
    """Whether a file without a suffix, or with one of figures as the UIDs of DICOM end, is a DICOM file."""
    bare = path.suffix == "" or path.suffix[1:].isdigit()
    return bare and kind_of(path).words == "DICOM image"


# Folders that programs put beside the photos, of thumbnails and side files; their pictures are no photos of parts.
_SIDE_FOLDERS = frozenset({"@eadir", "thumbs", "thumbnails", "__macosx", "thumbnail", "@tmp", "@recycle", "#recycle"})
_SIDE_FOLDERS |= {"$recycle.bin", "#snapshot", "@recently-snapshot", "lost+found", "_thumbs", "_thumbnails"}


def is_side_folder(name: str) -> bool:
    """Whether a folder of this name holds thumbnails, or what a file system keeps beside the photos."""
    return name.casefold() in _SIDE_FOLDERS


def is_cache(name: str) -> bool:
    """Whether a folder of this name is what programs keep for themselves, where no pictures are photos of parts."""
    return name.lower() in _CACHES or name.lower().startswith(".trash")


def _loops(folder: Path) -> bool:
    """Whether a folder is a link to one it was reached through, or that holds it."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    return any(above.resolve().is_relative_to(target) for above in folder.parents)


def stems(stem: str, *endings: str) -> list[str]:
    """Names of images of this stem, with each ending."""
    return [stem + ending + suffix for ending in endings for suffix in sorted(SUFFIXES)]


def alternate(paths: Sequence[Path]) -> dict[Path, Split]:
    """Of good images in order of name, every fifth for testing."""
    return {path: "test" if index % 5 == 4 else "train" for index, path in enumerate(sorted(paths))}


def left_notes(tree: Tree) -> tuple[list[Path], list[str]]:
    """(images among the files that are left out, as hidden or of another form; a note on each sort of these files)."""
    notes: list[str] = []
    others = [(path, kind) for path, kind in tree.others() if path not in tree.used and path.name != "split.csv"]
    out_of_sight = set(tree.hidden_files())
    images = [path for path, kind in others if kind.group == "image"]
    foreign = [path for path in images if path not in out_of_sight]
    plain_files = [path for path, kind in others if kind.group != "image" and path not in out_of_sight]
    if plain_files:
        kinds = dict(others)
        told = (kinds[path] for path in plain_files)
        what = sorted({kind.a for kind in told if kind.group != "other" or kind.words in SPECIAL})
        also = f"; among them {', '.join(what)}" if what else ""
        first = plain_files[0].relative_to(tree.root)
        notes.append(f"{len(plain_files)} files are not images and left out ({first}, …){also}")
    if foreign:
        first, kind_of_first = foreign[0].relative_to(tree.root), dict(others)[foreign[0]]
        notes.append(
            f"{len(foreign)} images are left out for their suffix ({first}, {kind_of_first.a}, …): "
            f"save or rename them as {EXPECTED}"
        )
    if tree.side_folders:
        notes.append(_side_note([path.relative_to(tree.root) for path in tree.side_folders]))
    if tree.hidden:
        first = tree.hidden[0].relative_to(tree.root)
        seen = sum(path in out_of_sight for path in images)
        also = f"; {seen} of what is in them are images" if seen else ""
        notes.append(f"{len(tree.hidden)} hidden files or folders are left out ({first}, …){also}")
    return images, notes


def _side_note(folders: Sequence[Path]) -> str:
    """What is said of folders of thumbnails and side files."""
    more = f" and {len(folders) - 1} more" if folders[1:] else ""
    return f"passed over {folders[0]}{more}: thumbnails, or what a file system keeps beside the photos"


class Gathered(NamedTuple):
    """images: to be tried, in order; left: other files of the folders, with what each is; hidden: images among them;
    side: folders of thumbnails and the like, with all that is in them"""

    images: list[Path]
    left: list[tuple[Path, FileKind]]
    hidden: list[Path]
    side: tuple[Path, ...] = ()

    def sentences(self) -> list[str]:
        """What is passed over, a line each; empty where nothing is."""
        lines = []
        for words, chosen in (
            ("hidden images", [path for path, _ in self.left if path in self.hidden]),
            ("videos", [path for path, kind in self.left if kind.group == "video"]),
            ("archives", [path for path, kind in self.left if kind.group == "archive"]),
            ("documents", [path for path, kind in self.left if kind.group == "document"]),
            ("named pipes, sockets or devices", [path for path, kind in self.left if kind.words in SPECIAL]),
            (
                "files that are no images",
                [path for path, kind in self.left if kind.group == "other" and kind.words not in SPECIAL],
            ),
        ):
            if chosen:
                more = ", …" if chosen[3:] else ""
                lines.append(f"passed over {len(chosen)} {words}: {', '.join(map(str, chosen[:3]))}{more}")
        return lines + ([_side_note(self.side)] if self.side else [])


def gather(paths: Sequence[str | os.PathLike[str]]) -> Gathered:
    """Files, and the images below folders whatever their suffix, in order and each once; and what is passed over.

    A file is an image by its suffix or by its first bytes, so that one that is not read fails where it is tried. Raises
    DataError for one that is not there, a folder without images, and an archive, a video or a document named outright.
    """
    found: dict[Path, None] = {}
    left: dict[Path, FileKind] = {}
    hidden: list[Path] = []
    side: list[Path] = []
    for path in (place_given(path, "a photo or folder") for path in paths):
        if path.is_dir():
            tree = Tree(path)
            kinds = {other: kind for other, kind in tree.others()}
            side += tree.side_folders
            out_of_sight = set(tree.hidden_files())
            tried = {other for other, kind in kinds.items() if kind.group == "image" and other not in out_of_sight}
            inside = [file for file in tree.files if file in tried or file in tree.read]
            hidden += [file for file in out_of_sight if kinds[file].group == "image"]
            if not inside:
                what = "; ".join(Gathered([], list(kinds.items()), hidden, tuple(side)).sentences())
                raise DataError(f"no images in {path}; expected {EXPECTED}" + (f" ({what})" if what else ""))
            found |= dict.fromkeys(inside)
            left |= {other: kind for other, kind in kinds.items() if other not in tried}
        elif path.exists() or path.is_symlink():  # a link to nothing fails where it is tried, and the others go on
            kind = kind_of(path)
            if kind.group in ("archive", "video", "document") or kind.words in SPECIAL:
                raise DataError(f"{path} is {kind.a}, no image; {cure(kind)}")
            found[path] = None  # a file named outright is tried, whatever its suffix
        else:
            raise DataError(f"{path}: there is no such file or folder")
    if not found:
        raise DataError("no images given; name files or folders")
    return Gathered(
        list(found),
        [item for item in left.items() if item[0] not in found],
        sorted(set(hidden) - set(found)),
        tuple(dict.fromkeys(side)),
    )


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The images of `gather`. Raises DataError."""
    return gather(paths).images


def cure(kind: FileKind) -> str:
    """What to do with a file of this kind where a folder of photos is wanted."""
    if kind.group == "archive":
        return "unpack it and give the folder"
    if kind.group == "video":
        return "save its frames as images and give their folder"
    if kind.group == "document":
        return "save its pictures as images and give their folder"
    if kind.group == "image":
        return "give the folder that holds it and the others"
    if kind.words in SPECIAL:
        return "save what comes from it as files and give their folder"
    return "give a folder of photos, or a csv that lists them"


def refuse_no_folder(path: Path, wanted: str = "a folder of photos") -> None:
    """Raise LayoutError for a path that is no folder, saying what it is and what to do; `wanted`: with its article."""
    if path.is_dir():
        return
    if not path.exists():
        raise LayoutError(f"{path}: there is no such folder")
    kind = kind_of(path)
    what = f"one photo ({kind.words})" if kind.group == "image" else kind.a
    unlisted = wanted != "a folder of photos" and kind.group == "other" and kind.words not in SPECIAL
    raise LayoutError(f"{path} is {what}, not {wanted}; {f'give {wanted}' if unlisted else cure(kind)}")
