"""MVTec AD and the data sets laid out like it: train/good, test/<kind>, ground_truth/<kind>."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flawmap.data.layouts.folder import ask_about
from flawmap.data.layouts.listing import Sample, Split
from flawmap.data.layouts.names import is_good, is_mask_folder, plain
from flawmap.data.layouts.tree import Tree, stems
from flawmap.data.layouts.truth import Truth


def _halves(tree: Tree, half: str) -> list[str]:
    return tree.named(lambda name: plain(name) == half)


def _good_photos(tree: Tree, half: str, truth: Truth | None = None) -> list[Path]:
    """Images of good parts in train/ or test/, in folders by part too."""
    found = [
        path
        for name in _halves(tree, half)
        for good in tree.named(is_good, name)
        for path in tree.images(name, good, deep=True)
    ]
    return found if truth is None else [path for path in found if path not in truth.masks]


def _mvtec_like(tree: Tree, tests: Sequence[str], masks: str) -> list[Sample]:
    """train/good, test/<kind>, masks/<kind>/<stem>_mask: MVTec AD and those who follow it."""
    truth = Truth(tree)
    samples = [Sample(path, "train", False, "good") for path in _good_photos(tree, "train", truth)]
    halves = [name for half in tests for name in _halves(tree, half)]
    ask_about(tree, [Path(half, kind) for half in halves for kind in tree.folders(half)])
    for test in halves:
        for kind in tree.folders(test):
            if is_mask_folder(kind):
                continue
            for path in tree.images(test, kind, deep=True):
                if path in truth.masks:
                    continue
                if is_good(kind):
                    samples.append(Sample(path, "test", False, "good"))
                    continue
                folder = tree.root / masks / kind
                mask = tree.first(folder, stems(path.stem, "_mask", "")) or _parts_mask(tree, folder / path.stem)
                found = (mask,) if mask else truth.of(path)
                samples.append(Sample(path, "test", True, kind, *_split(found)))
    return samples


def _split(found: Sequence[Path]) -> tuple[Path | None, tuple[Path, ...]]:
    return (found[0], tuple(found[1:])) if found else (None, ())


def _parts_mask(tree: Tree, folder: Path) -> Path | None:
    """LOCO keeps a folder of masks an image, one a defect: the only one, or the folder, which means all of them."""
    found = tree.images(*folder.relative_to(tree.root).parts)
    tree.used.update(found)
    return folder if len(found) > 1 else next(iter(found), None)


def mvtec(tree: Tree) -> list[Sample] | None:
    """Either half may be absent: a folder to learn from alone, or one to measure on."""
    if not _good_photos(tree, "train") and not _good_photos(tree, "test"):
        return None
    return _mvtec_like(tree, ["test"], "ground_truth")


def mpdd(tree: Tree) -> list[Sample] | None:
    """MPDD is laid out as MVTec AD is; it is told by the names of its objects."""
    return mvtec(tree)


def mvtec_loco(tree: Tree) -> list[Sample] | None:
    """As MVTec AD; the good images of validation/ are learned from too, the published test set stays as it is."""
    if not {"logical_anomalies", "structural_anomalies"} & set(tree.folders("test")):
        return None
    samples = _mvtec_like(tree, ["test"], "ground_truth")
    return samples + [Sample(path, "train", False, "good") for path in tree.images("validation", "good")]


def mvtec_ad2(tree: Tree) -> list[Sample] | None:
    """train/ and validation/good to learn from; test_public/{good,bad,ground_truth/bad}; the private have no labels."""
    if not tree.folders("test_public"):
        return None
    samples = [Sample(path, "train", False, "good") for path in tree.images("train", "good")]
    samples += [Sample(path, "train", False, "good") for path in tree.images("validation", "good")]
    samples += [Sample(path, "test", False, "good") for path in tree.images("test_public", "good")]
    for path in tree.images("test_public", "bad"):
        mask = tree.first(tree.root / "test_public" / "ground_truth" / "bad", stems(path.stem, "_mask", ""))
        samples.append(Sample(path, "test", True, "bad", mask))
    for split in ("test_private", "test_private_mixed"):
        samples += [Sample(path, "test", None, "unlabelled") for path in tree.images(split, deep=True)]
    return samples


def btad(tree: Tree) -> list[Sample] | None:
    """BTAD: train/ok, test/{ok,ko}, ground_truth/ko with masks of the same stem."""
    tests = tree.folders("test")
    if not tree.images("train", "ok") or not tests or not {"ok", "ko"}.issuperset(tests):
        return None
    truth, samples = Truth(tree), list[Sample]()
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        samples += [Sample(path, split, False, "good") for path in tree.images(split, "ok") if path not in truth.masks]
    for path in tree.images("test", "ko"):
        if path not in truth.masks:
            mask = tree.first(tree.root / "ground_truth" / "ko", stems(path.stem, "", "_mask"))
            samples.append(Sample(path, "test", True, "ko", *_split((mask,) if mask else truth.of(path))))
    return samples
