"""Which images of a folder are masks of others, and of which.

A mask lies in a folder of masks, or beside its photo as NAME_mask.png, as any other name that holds the photo's whole
NAME, or as NAME.png beside NAME.jpg. Where the name is not sure (all but _mask and _gt, folders called labels or
annotations or by any other name whose files are named after photos elsewhere), the pictures tell: masks are drawn in
few levels (drawn.py), their photos are not. What lies in a folder named good, bad or after a defect, or in test/<kind>,
is a photo however it looks, as dark-field photos look drawn. What stays in doubt is refused, never counted as a
defective part in silence.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from flawmap.data.drawn import Look, look
from flawmap.data.layouts.names import (
    PHOTO_FOLDERS,
    SPLITS,
    inner_stems,
    is_bad,
    is_copy,
    is_good,
    is_mask_folder,
    marked_stem,
    mask_stems,
    may_be_mask_folder,
    plain,
)
from flawmap.data.layouts.tree import Tree
from flawmap.errors import LayoutError

Item = TypeVar("Item")

Pair = tuple[Path, list[Path]]  # a picture, and those of whose name its own is made, the likeliest first

LOOKED_AT = 6  # images of a folder, or pairs, that tell what the others are
MOST_ENDINGS = 12  # of names in a folder, each of which is told by itself


class Truth:
    """The images of a tree, told apart: `photos` in their order, and the masks, each looked up by its photo.

    `within`: only the images below these folders are photos; those elsewhere may be their masks.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._looks: dict[Path, Look] = {}
        self._parts = {path: path.relative_to(tree.root).parts[:-1] for path in tree.images_found}
        self.masks = {path for path, parts in self._parts.items() if any(map(is_mask_folder, parts))}
        self._find_beside()
        self._find_folders()
        self.photos = [path for path in tree.images_found if path not in self.masks]
        self._names = Counter(path.stem.casefold() for path in self.photos)
        inside: dict[str, set[str]] = defaultdict(set)  # names of photos, not of good ones, by the parts of them
        for path in self.photos if self.masks else ():
            if not any(map(is_good, self._parts[path])):
                for part in inner_stems(path.stem):
                    inside[part].add(path.stem.casefold())
        self._stems = {path: self._stems_of(path, inside) for path in tree.images_found if path in self.masks}
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path, stems in self._stems.items():
            for stem in stems:
                self._by_stem[stem].append(path)
        self._refuse_unmatched()

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
        """NAME_mask.png, and whatever holds the photo's whole NAME or is NAME of another suffix, where it is drawn."""
        here: dict[tuple[Path, str], list[Path]] = defaultdict(list)
        for path in self.tree.images_found:
            if path not in self.masks:
                here[path.parent, path.stem.casefold()].append(path)
        pairs: dict[Path, dict[str, list[Pair]]] = defaultdict(lambda: defaultdict(list))
        for path in self.tree.images_found:
            if path in self.masks:
                continue
            stem, named = path.stem.casefold(), marked_stem(path.stem)
            if named and named[1] and (path.parent, named[0]) in here:
                self.masks.add(path)
                continue
            same = [other for other in here[path.parent, stem] if other != path]
            if same:
                pairs[path.parent][path.suffix.lower()].append((path, same))
            inside = [(name, here[path.parent, name]) for name in inner_stems(path.stem) if (path.parent, name) in here]
            if inside:
                affix = re.sub(r"\d+", "#", stem.replace(inside[0][0], "*", 1))
                pairs[path.parent][affix].append((path, [other for _, others in inside for other in others]))
        for groups in pairs.values():
            if len(groups) > MOST_ENDINGS:
                groups = {"": [pair for group in groups.values() for pair in group]}
            for affix, group in groups.items():
                self._find_group(affix, group)

    def _find_group(self, affix: str, group: Sequence[Pair]) -> None:
        """The masks of pictures whose names differ from those of others alike: all or none. Raises LayoutError."""
        group = [(path, kept) for path, others in group if (kept := [one for one in others if one not in self.masks])]
        said = {path: self._judged(path, others) for path, others in _some(group)}
        if None in said.values() or len(told := set(said.values()) - {"even"}) > 1:
            first = next(path for path, verdict in said.items() if verdict in (None, "mask"))
            photo = dict(group)[first][-1]
            raise LayoutError(
                f"{first.parent}: are {first.name} and the like masks of {photo.name} and the like, or photos of "
                "parts? Not all look the same; name masks NAME_mask, or put masks and photos into folders of their own"
            )
        named_so = affix.startswith(".") or marked_stem(affix.replace("*", "name")) is not None
        if group and (told == {"mask"} or (not told and (named_so or len(group) > 1))):
            self.masks.update(path for path, _ in group)

    def _judged(self, path: Path, others: Sequence[Path]) -> str | None:
        """What a picture is: "mask" of one of `others`, "photo", "even", which tells nothing, or None, in doubt."""
        photo = next((self._look(one) for one in others if self._look(one).kind not in ("even", "drawn")), None)
        if photo is None:
            return "photo"
        seen = self._look(path)
        if seen.kind == "even":
            return "even"
        verdict = seen.is_mask_beside(photo)
        sized = not all(photo.size) or seen.size == photo.size or marked_stem(path.stem) is not None
        if verdict is None or (verdict and not sized):
            return None
        return "mask" if verdict else "photo"

    # --- in a folder of its own ----------------------------------------------------------------------------------

    def _find_folders(self) -> None:
        """Folders whose names are not sure, but whose files are named as photos elsewhere and are drawn as masks."""
        groups: dict[Path, list[Path]] = defaultdict(list)
        for path in self.tree.images_found:
            if path not in self.masks and self._parts[path]:
                groups[self._group(path)].append(path)
        if len(groups) < 2 and all(self._parts.values()):
            return
        named: dict[str, dict[Path, Path]] = defaultdict(dict)  # a stem's photos, one a folder
        for path in self.tree.images_found:
            if path not in self.masks:
                named[path.stem.casefold()].setdefault(self._group(path), path)
        told: dict[Path, list[Path]] = {}
        for folder, paths in groups.items():
            unsure = may_be_mask_folder(folder.name)
            parts_folder = None if unsure else self._parts_folder(folder)
            pairs = self._pairs_of(folder, paths, named, parts_folder if parts_folder != folder else None)
            if folder == parts_folder or (unsure and self._has_own_masks(folder)):
                self._refuse_flat_drawings(folder, paths, pairs)
                continue
            if self._is_of_masks(paths, pairs, unsure):
                told[folder] = paths
            elif unsure and pairs and not self._is_kind(folder):
                raise LayoutError(
                    f"{folder}: are these masks or photos? Their names are those of photos, but they do not all look "
                    "like masks; move the folder away, save them as masks (0 where the part is good), or rename it if "
                    "they are parts"
                )
            elif (
                parts_folder is None
                and not pairs
                and self._drawn(paths)
                and (unsure or self._others_are_photos(groups, folder))
            ):
                raise LayoutError(
                    f"{folder} looks like masks, but no photos have their names ({paths[0].name}, …); name each as its "
                    "photo, or move the folder away"
                )
        if len(told) < len(groups) or not all(self._parts.values()):  # not where all pictures are drawn so
            for paths in told.values():
                self.masks.update(paths)

    def _pairs_of(
        self, folder: Path, paths: Sequence[Path], named: dict[str, dict[Path, Path]], within: Path | None
    ) -> list[Pair]:
        """Pictures of a folder with the photos of other folders whose names they have: of those in `within` alone where
        it is given, and of defective parts where there are any, as masks are made of these."""
        pairs: list[Pair] = []
        for path in paths:
            known = (named.get(stem, {}) for stem in (*mask_stems(path.stem), *inner_stems(path.stem)))
            others = [other for places in known for place, other in places.items() if place != folder]
            if within is not None:
                others = [other for other in others if other.is_relative_to(within)]
            others = [other for other in others if not self._is_of_good(other)] or others
            if others:
                pairs.append((path, others))
        return pairs

    def _is_of_good(self, path: Path) -> bool:
        return any(map(is_good, self._parts[path]))

    def _parts_folder(self, folder: Path) -> Path | None:
        """The innermost of a folder and those above it that says of what parts its photos are: named good, bad or after
        a defect, or a kind of defect in test/; None without any."""
        below = folder.relative_to(self.tree.root).parts
        for depth in range(len(below), 0, -1):
            inside = self.tree.root.joinpath(*below[:depth])
            if is_good(inside.name) or is_bad(inside.name) or self._is_kind(inside):
                return inside
        return None

    def _has_own_masks(self, folder: Path) -> bool:
        """Whether a kind of defect in test/, named as masks are too, has masks elsewhere: ground_truth/<kind>."""
        return self._is_kind(folder) and any(
            folder.name in self._parts[path] and not path.is_relative_to(folder) for path in self.masks
        )

    def _refuse_flat_drawings(self, folder: Path, paths: Sequence[Path], pairs: Sequence[Pair]) -> None:
        """Pictures of exactly two colours with the names of photos are none of defective parts. Raises LayoutError."""
        looks = [self._look(path) for path in _some(paths)]
        if is_good(folder.name) or not all(one.two or one.kind == "even" for one in looks):
            return
        if {self._judged(path, others) for path, others in _some(pairs)} - {"even"} == {"mask"}:
            raise LayoutError(
                f"{folder}: are these photos of defective parts, or masks? All have two colours and the names of "
                "photos elsewhere; name the folder masks, or the files by names of their own if they are photos"
            )

    def _is_of_masks(self, paths: Sequence[Path], pairs: Sequence[Pair], unsure: bool) -> bool:
        """Whether a folder is of masks, by its pictures and the photos of their names. Raises LayoutError in doubt."""
        if not pairs:
            return False
        kinds = {self._look(path).kind for path in _some(paths)}
        if "photo" in kinds:
            return False
        if unsure and kinds <= {"drawn", "even"}:
            return True
        said = {self._judged(path, others) for path, others in _some(pairs)} - {"even"}
        if said == {"mask"} and not unsure and all(self._is_of_good(other) for _, others in pairs for other in others):
            raise LayoutError(
                f"{self._group(paths[0])}: are these masks, or photos of defective parts? They have the look of masks "
                "and the names of good photos alone; name the folder masks, or bad if they are photos"
            )
        if said == {"mask"} and (unsure or "soft" not in kinds):
            return True
        if said == {"mask"}:  # photos of an empty background look so too
            folder = self._group(paths[0])
            raise LayoutError(
                f"{folder}: are these masks or photos? They have the names of photos and the look of masks with soft "
                "edges; name the folder masks, or good or bad and its files by names of their own if they are parts"
            )
        return False

    def _others_are_photos(self, groups: dict[Path, list[Path]], folder: Path) -> bool:
        """Whether the pictures of all other folders are photos, some of them of the size of those in `folder`."""
        sizes = {self._look(path).size for path in _some(groups[folder])}
        looks = [self._look(path) for other, paths in groups.items() if other != folder for path in _some(paths)]
        return all(one.kind in ("photo", "soft") for one in looks) and any(one.size in sizes for one in looks)

    def _refuse_unmatched(self) -> None:
        """Masks of a folder named so, of which none has the name of a photo. Raises LayoutError."""
        if all(any(map(is_good, self._parts[path])) for path in self.photos):
            return
        groups: dict[Path, list[Path]] = defaultdict(list)
        for path in self.tree.images_found:
            if path in self.masks and (depth := next(self._depths(path), None)) is not None:
                groups[self.tree.root.joinpath(*self._parts[path][: depth + 1])].append(path)
        for folder, paths in groups.items():
            if not any(self._known(path) for path in paths):
                raise LayoutError(
                    f"{folder} holds masks, but no photos have their names ({paths[0].name}, …); name each as its "
                    "photo, or move the folder away"
                )

    def _depths(self, path: Path) -> Iterator[int]:
        return (depth for depth, part in enumerate(self._parts[path]) if is_mask_folder(part))

    def _known(self, mask: Path) -> bool:
        """Whether a mask, or the folder of a photo's masks, has the name of a photo."""
        return any(stem in self._names for stem in self._stems[mask]) or mask.parent.name.casefold() in self._names

    def _stems_of(self, mask: Path, inside: dict[str, set[str]]) -> tuple[str, ...]:
        """Stems that a mask's photo may have: its own, without an ending, or a photo's that it holds or is held by."""
        stems = mask_stems(mask.stem)
        if any(stem in self._names for stem in stems):
            return stems
        if (held := next((stem for stem in inner_stems(mask.stem) if stem in self._names), None)) is not None:
            return (*stems, held)
        holders = inside.get(mask.stem.casefold(), set())
        return (*stems, *holders) if len(holders) == 1 else stems

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

    def _drawn(self, paths: Sequence[Path]) -> bool:
        """Whether some of `paths` all look like masks, and are not all even."""
        kinds = {self._look(path).kind for path in _some(paths)}
        return "drawn" in kinds and kinds <= {"drawn", "even"}

    def _look(self, path: Path) -> Look:
        if path not in self._looks:
            self._looks[path] = look(path)
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
