"""What a bundle and its evaluation say about one set of the jury: the content of a result file."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import METRICS
from processes import Failed, read_metrics, went_on

SETS = ("toy_figures", "kolektor", "mtoc", "elpv_poly", "bsdata", "magnetic_tile")
MASKED = ("kolektor", "mtoc", "bsdata", "magnetic_tile")  # their defects have masks
DRAWN = "drawn-"  # begins the name of a set that flawmap draws
SEEDS = (0, 1, 2)  # that a figure of the jury is the mean of
OVERKILLS = (1, 2, 5)  # per cent of the good parts that escape is told at
GROUPS = 19  # independent groups of good photos from which on an overkill of 5 % can be promised
NETWORK = "network"  # the protocol of pixel metrics where a result does not name one
WITHOUT = re.compile(r"metrics-without-(\d+)\.json")


def drawn_sets() -> list[str]:
    """Names of the sets that flawmap draws, one for each surface it knows."""
    from flawmap.data.surfaces import SURFACES  # of the package that is measured

    return [DRAWN + surface for surface in SURFACES]


def collect(bundle: Path, report: Path, minutes: float | None = None) -> dict[str, Any]:
    """Figures of the bundle in the folder `bundle` and its evaluation in the folder `report`.

    `minutes`: that the training took over all attempts, where they were counted; at least those that the bundle knows.
    Raises Failed when a file is missing or is no result of `flawmap train` or `flawmap evaluate`.
    """
    try:
        metrics, provenance = read_metrics(bundle, report)
        note = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
        recipe = tomllib.loads((bundle / "recipe.toml").read_text(encoding="utf-8"))
        scores = read_scores(report / "images.csv")
        figures = {
            "good": metrics["good"],
            "defective": metrics["defective"],
            "protocol": "full" if metrics.get("map_size") == "photo" else NETWORK,
            "metrics": chosen_metrics(metrics),
            "kinds": metrics.get("kinds", {}),
            "rejected_good": _rejected(scores["good"], note["threshold"]),
            "at_overkill": at_overkills(scores, provenance, recipe.get("threshold", {}).get("tail", "observed")),
            "threshold": note["threshold"],
            "groups": independent_groups(provenance, note["threshold"]),
            "image": {side: recipe.get("image", {}).get(side) for side in ("height", "width")},
            "steps": recipe.get("detect", {}).get("steps"),
            "minutes": round(max(minutes or 0.0, float(provenance["minutes"])), 2),
            # not counted over all attempts: the minutes are the last one's
            "minutes_at_least": bool(provenance["resumed"]) and minutes is None,
            "resumed": bool(provenance["resumed"]) if minutes is None else went_on(provenance, minutes),
            "peak_memory_mb": provenance["peak_memory_mb"],
            "trained_on": provenance["trained_on"],
            "trained_by": provenance["machine"],
        }
    except (OSError, ValueError) as problem:
        raise Failed(f"{bundle} and {report} cannot be read: {problem}") from problem
    except (KeyError, TypeError) as problem:
        raise Failed(f"{bundle} or {report} lacks {problem}; train and evaluate again") from problem
    found = (path for path in sorted(report.iterdir()) if WITHOUT.fullmatch(path.name))
    if strict := without_near_duplicates(found):
        figures["without_near_duplicates"] = strict
    return figures


def chosen_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Of the content of metrics.json what a result holds: {"value", "low", "high"} of each, and SegF1 where it is."""
    names = (name for name in (*METRICS, "seg_f1") if name == "image_auroc" or name in metrics)
    return {name: metrics[name] if isinstance(metrics[name], dict) else {"value": metrics[name]} for name in names}


def read_scores(table: Path) -> dict[str, list[float]]:
    """Scores in an images.csv, by label: `good` and `defective`."""
    scores: dict[str, list[float]] = {"good": [], "defective": []}
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file):
            scores[row["label"]].append(float(row["score"]))
    return scores


def at_overkills(scores: Mapping[str, Sequence[float]], provenance: Mapping[str, Any], tail: Any) -> dict[str, Any]:
    """Escape, and the overkill that came of it, at thresholds set from the bundle's scores of good photos.

    {"1": {"threshold", "escape", "overkill"}, …}; empty for a bundle without such scores.
    """
    from flawmap.measure.threshold import choose_threshold  # of the package that is measured

    held_out, peaks = (provenance.get(name) or [] for name in ("held_out_scores", "held_out_peaks"))
    found = {}
    for percent in OVERKILLS if held_out else ():
        threshold = choose_threshold(held_out, peaks, percent / 100, tail=tail).score
        found[str(percent)] = {
            "threshold": threshold,
            "escape": _share(score <= threshold for score in scores["defective"]),
            "overkill": _share(score > threshold for score in scores["good"]),
        }
    return found


def independent_groups(provenance: Mapping[str, Any], threshold: Mapping[str, Any] | None) -> int | None:
    """How many independent groups of good photos set a threshold: folders or single photos where no groups are known.

    None without a threshold.
    """
    if threshold is None:
        return None
    for found in (provenance.get("groups"), threshold.get("groups")):
        if isinstance(found, int | float):
            return int(found)
        if isinstance(found, list | dict):
            return int(found["count"]) if isinstance(found, dict) and "count" in found else len(found)
    if said := re.search(r"(\d+) independent groups?", threshold.get("note", "")):
        return int(said[1])
    return int(provenance.get("held_out_folders") or 0) or int(threshold["held_out"])


def without_near_duplicates(files: Iterable[Path]) -> dict[str, Any]:
    """Metrics measured without training photos near a test photo, by how many numbers near is: {"200": metrics, …}.

    From files metrics-without-N.json, or from one that holds such a mapping. Raises Failed for another.
    """
    found: dict[str, Any] = {}
    for path in files:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise Failed(f"{path} cannot be read: {problem}") from problem
        name = WITHOUT.fullmatch(path.name)
        several = {name[1]: content} if name else content
        if not isinstance(several, dict) or not all(key.isdigit() for key in several):
            raise Failed(f'{path}: expected metrics-without-N.json, or a file that holds {{"200": metrics, …}}')
        for near, metrics in several.items():
            try:
                found[near] = chosen_metrics(metrics.get("metrics", metrics))
            except (AttributeError, KeyError) as problem:
                raise Failed(f"{path} holds no image AUROC; measure it again") from problem
    return found


def _rejected(good: Sequence[float], threshold: Mapping[str, Any] | None) -> int | None:
    return None if threshold is None else sum(score > threshold["score"] for score in good)


def _share(hits: Iterable[bool]) -> float | None:
    found = list(hits)
    return sum(found) / len(found) if found else None
