"""A data set as one list of samples, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flawmap.data.images import SUFFIXES
from flawmap.errors import LayoutError

Split = Literal["train", "test"]
EXPECTED = " ".join(sorted(SUFFIXES))


@dataclass(frozen=True)
class Sample:
    """One image: its file, split, whether it is defective (None: unknown), the kind of defect or "good", its mask.

    The mask is a file, or a folder of masks that hold one defect each; `more_masks` are further files of it.
    """

    image: Path
    split: Split
    defective: bool | None
    kind: str
    mask: Path | None = None
    more_masks: tuple[Path, ...] = ()

    @property
    def masks(self) -> tuple[Path, ...]:
        """All files, or the folder, that together are the mask."""
        return () if self.mask is None else (self.mask, *self.more_masks)

    @property
    def mask_files(self) -> tuple[Path, ...]:
        """All files that together are the mask, those of a folder too."""
        folders = (sorted(mask.iterdir()) if mask.is_dir() else [mask] for mask in self.masks)
        return tuple(file for files in folders for file in files if file.is_file())


@dataclass(frozen=True)
class Listing:
    """What a folder holds; `notes` are sentences to say aloud.

    passed_over: images among what is left out that no layout could have taken, as they are hidden or of another form
    """

    root: Path
    layout: str
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = field(default=())
    passed_over: tuple[Path, ...] = field(default=())

    def __repr__(self) -> str:
        said = "".join(f"; {note}" for note in self.notes)
        count = f"{len(self.train_good)} good photos to learn from, {len(self.test)} to test on"
        return f"<Listing of {self.root} ({self.layout}): {count}{said}>"

    @property
    def name(self) -> str:
        """Last part of the folder's path."""
        return self.root.resolve().name

    @property
    def train_good(self) -> tuple[Sample, ...]:
        """Good images to learn from."""
        return tuple(sample for sample in self.samples if sample.split == "train" and sample.defective is False)

    @property
    def test(self) -> tuple[Sample, ...]:
        """Images to measure on."""
        return tuple(sample for sample in self.samples if sample.split == "test")


def listed(
    root: Path, layout: str, samples: list[Sample], notes: list[str], passed_over: tuple[Path, ...] = ()
) -> Listing:
    """The samples with what is to be said of them. Raises LayoutError where one mask would be of two images."""
    owners: dict[Path, Path] = {}
    for sample in samples:
        for mask in sample.masks:
            if owners.setdefault(mask, sample.image) != sample.image:
                raise LayoutError(
                    f"{mask} would be the mask of both {owners[mask]} and {sample.image}; give each its own"
                )
    maskless = [sample for sample in samples if sample.defective and sample.mask is None and sample.split == "test"]
    if maskless:
        notes.append(
            f"{len(maskless)} defective test images have no mask ({maskless[0].image.name}, …): they count for "
            "detection and are left out of localization"
        )
    unlabelled = [sample for sample in samples if sample.defective is None]
    if unlabelled:
        notes.append(
            f"{len(unlabelled)} images have no label ({unlabelled[0].image.name}, …): they are neither learned from "
            "nor measured on"
        )
    defective = [sample for sample in samples if sample.defective and sample.split == "train"]
    if defective:
        notes.append(f"{len(defective)} defective training images ({defective[0].image.name}, …) are not learned from")
    return Listing(root, layout, tuple(samples), tuple(notes), passed_over)
