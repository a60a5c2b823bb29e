"""Which images of a folder are masks of others, and of which.

A mask lies in a folder of masks, or beside its photo as NAME_mask.png or as NAME.png beside NAME.jpg. Where the name is
not sure (labels, annotations, a folder of any other name whose files are named as photos elsewhere), the pictures tell:
masks are drawn in few levels. What stays in doubt is refused, never counted as a defective part in silence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from flawmap.data.layouts.names import (
    PHOTO_FOLDERS,
    SPLITS,
    is_copy,
    is_mask_folder,
    marked_stem,
    mask_stems,
    may_be_mask_folder,
    plain,
)
from flawmap.data.layouts.tree import Tree
from flawmap.data.masks import looks_like_mask
from flawmap.errors import LayoutError

Item = TypeVar("Item")

LOOKED_AT = 4  # images of a folder, or pairs, that tell what the others are


class Truth:
    """The images of a tree, told apart: `photos` in their order, and the masks, each looked up by its photo.

    `within`: only the images below these folders are photos; those elsewhere may be their masks.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._looks: dict[Path, bool | None] = {}
        self._parts = {path: path.relative_to(tree.root).parts[:-1] for path in tree.images_found}
        self.masks = {path for path, parts in self._parts.items() if any(map(is_mask_folder, parts))}
        self._find_beside()
        self._find_folders()
        self.photos = [path for path in tree.images_found if path not in self.masks]
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in tree.images_found:
            if path in self.masks:
                for stem in mask_stems(path.stem):
                    self._by_stem[stem].append(path)
        self._names: dict[str, int] = defaultdict(int)
        for path in self.photos:
            self._names[path.stem.casefold()] += 1

    def of(self, photo: Path) -> tuple[Path, ...]:
        """The mask files of a photo, several where they are numbered (NAME_mask_1, NAME_mask_2); () without any.

        Beside it, or in a folder of masks under the same path or a shorter one, or of a name that no other photo has.
        """
        stem = photo.stem.casefold()
        place = self._place(photo)
        ranked: dict[tuple[int, int, int], list[Path]] = defaultdict(list)
        for mask in self._by_stem.get(stem, []):
            at = self._place(mask)
            beside = mask.parent == photo.parent
            if beside or _within(at, place):
                ranked[(beside, len(at), mask.stem.casefold() != stem)].append(mask)
        if not ranked:
            elsewhere = self._by_stem.get(stem, [])
            return self._numbered(elsewhere) if self._names[stem] == 1 and _alone(elsewhere) else ()
        return self._numbered(ranked[max(ranked)])

    def _numbered(self, masks: Sequence[Path]) -> tuple[Path, ...]:
        return tuple(sorted(masks)) if len({mask.stem for mask in masks}) == len(masks) else (min(masks),)

    def _place(self, path: Path) -> tuple[str, ...]:
        """Folders of an image that tell where its like lie: without those that only say photo or mask."""
        return tuple(
            plain(part)
            for part in self._parts[path]
            if not (is_mask_folder(part) or plain(part) in PHOTO_FOLDERS or self._is_mask_folder(path, part))
        )

    def _is_mask_folder(self, path: Path, part: str) -> bool:
        return path in self.masks and may_be_mask_folder(part)

    # --- beside the photo ----------------------------------------------------------------------------------------

    def _find_beside(self) -> None:
        """NAME_mask.png, and NAME.png beside NAME.jpg."""
        here: dict[tuple[Path, str], list[Path]] = defaultdict(list)
        for path in self.tree.images_found:
            if path not in self.masks:
                here[path.parent, path.stem.casefold()].append(path)
        unsure: dict[Path, list[Path]] = defaultdict(list)
        for path in self.tree.images_found:
            if path in self.masks or (named := marked_stem(path.stem)) is None:
                continue
            if (path.parent, named[0]) in here:
                if named[1]:
                    self.masks.add(path)
                else:
                    unsure[path.parent].append(path)
        for group in unsure.values():
            if self._all_masks(group):
                self.masks.update(group)
        pairs: dict[Path, list[list[Path]]] = defaultdict(list)
        for (parent, _), paths in here.items():
            if len(paths) == 2 and not self.masks & set(paths):
                pairs[parent].append(paths)
        for group_of_pairs in pairs.values():
            self._find_pairs(group_of_pairs)

    def _find_pairs(self, pairs: list[list[Path]]) -> None:
        told = {self._mask_suffix(pair) for pair in _some(pairs)}
        if len(told) == 1 and (suffix := next(iter(told))):
            self.masks.update(path for pair in pairs for path in pair if path.suffix.lower() == suffix)
        elif len(told) > 1:
            for pair in pairs:
                suffix = self._mask_suffix(pair)
                self.masks.update(path for path in pair if path.suffix.lower() == suffix)

    def _mask_suffix(self, pair: list[Path]) -> str:
        """The suffix of that one of two images of a name which is a mask; "" where neither is for sure."""
        first, second = (self._look(path) for path in pair)
        if first is not second and True in (first, second):
            return pair[first is not True].suffix.lower()
        if {first, second} == {None, False}:  # an even picture beside a photo marks all or nothing
            return pair[first is not None].suffix.lower()
        return ""

    # --- in a folder of its own ----------------------------------------------------------------------------------

    def _find_folders(self) -> None:
        """Folders whose names are not sure, but whose files are named as photos elsewhere and are drawn as masks."""
        groups: dict[Path, list[Path]] = defaultdict(list)
        for path in self.tree.images_found:
            if path not in self.masks and self._parts[path]:
                groups[self._group(path)].append(path)
        if len(groups) < 2 and all(self._parts.values()):
            return
        named: dict[str, set[Path]] = defaultdict(set)
        for path in self.tree.images_found:
            if path not in self.masks:
                named[path.stem.casefold()].add(self._group(path))
        told: dict[Path, list[Path]] = {}
        for folder, paths in groups.items():
            known = sum(any(named[stem] - {folder} for stem in mask_stems(path.stem)) for path in paths)
            unsure = may_be_mask_folder(folder.name)
            if 2 * known >= len(paths) and (self._all_masks(paths) if unsure else self._surely_masks(paths)):
                told[folder] = paths
            elif unsure and self._surely_masks(paths):
                raise LayoutError(
                    f"{folder} looks like masks, but no photos have their names ({paths[0].name}, …); name each as its "
                    "photo, or move the folder away"
                )
            elif unsure and known and not self._is_kind(folder):
                raise LayoutError(
                    f"{folder}: are these masks or photos? Their names are those of photos, but they have many "
                    "levels; move the folder away, save them as masks (0 where the part is good), or rename it if they "
                    "are parts"
                )
        if len(told) < len(groups) or not all(self._parts.values()):  # not where all pictures are drawn so
            for paths in told.values():
                self.masks.update(paths)

    def _group(self, path: Path) -> Path:
        """The folder that an image is one of: the outermost that may be of masks, else its own."""
        parts = self._parts[path]
        for depth, part in enumerate(parts):
            if may_be_mask_folder(part):
                return self.tree.root.joinpath(*parts[: depth + 1])
        return path.parent

    def _is_kind(self, folder: Path) -> bool:
        """Whether a folder lies in test/, where each is a kind of defect."""
        return plain(folder.parent.name) in SPLITS and folder.parent != self.tree.root

    # --- looks ---------------------------------------------------------------------------------------------------

    def _all_masks(self, paths: Sequence[Path]) -> bool:
        """Whether some of `paths` all look like masks, or tell nothing."""
        return all(self._look(path) is not False for path in _some(paths))

    def _surely_masks(self, paths: Sequence[Path]) -> bool:
        """The same, and one of them does."""
        some = _some(paths)
        return self._look(some[0]) is not False and self._all_masks(some) and any(self._look(path) for path in some)

    def _look(self, path: Path) -> bool | None:
        if path not in self._looks:
            self._looks[path] = looks_like_mask(path)
        return self._looks[path]


def _some(items: Sequence[Item]) -> Sequence[Item]:
    """A few of them, evenly."""
    return items[:: max(1, len(items) // LOOKED_AT)][:LOOKED_AT]


def _within(inner: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    """Whether all of `inner` come in `outer`, in this order."""
    waiting = iter(outer)
    return all(part in waiting for part in inner)


def _alone(masks: Sequence[Path]) -> bool:
    return len(masks) > 0 and len({mask.parent for mask in masks}) == 1


def strays(paths: Iterable[Path]) -> list[Path]:
    """Those that are named as the copies that file managers make."""
    return [path for path in paths if is_copy(path.stem)]
