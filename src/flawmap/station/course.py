"""How far a training has come: its metrics, its steps and its last words, read from the files it writes."""

from __future__ import annotations

import contextlib
import json
import tomllib
from pathlib import Path
from typing import Any


def metrics(bundle: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, from the bundle or from the run that makes it; none before the first."""
    for file in (bundle / "metrics.jsonl", run_of(bundle) / "metrics.jsonl"):
        with contextlib.suppress(OSError):
            lines = []
            for line in file.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # a line that is being written
                    lines.append(json.loads(line))
            return lines
    return []


def progress(bundle: Path, lines: list[dict[str, Any]], done: bool) -> dict[str, Any]:
    """stage, step and steps of all stages together, progress in [0, 1], the last losses. `done`: it has ended well."""
    steps = _steps(bundle)
    total, last = sum(steps.values()), lines[-1] if lines else {}
    stage, step = str(last.get("stage", "")), int(last.get("step", 0))
    before = list(steps)[: list(steps).index(stage)] if stage in steps else []
    step += sum(steps[name] for name in before)
    losses = {name: value for name, value in last.items() if name not in ("stage", "step")}
    share = 1.0 if done else min(1.0, step / total) if total else 0.0
    return {"stage": stage, "step": step, "steps": total, "progress": round(share, 4), "losses": losses}


def last_words(log: Path, hidden: Path) -> str:
    """The last line that a training wrote, without the path `hidden`; "" where it said nothing."""
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        written = [line.strip() for line in lines if line.strip()]
        if written:
            return written[-1].removeprefix("flawmap: ").replace(str(hidden), "…")[:300]
    return ""


def run_of(bundle: Path) -> Path:
    """The folder in which a bundle is being trained."""
    return bundle.with_name(f"{bundle.name}.run")


def _steps(bundle: Path) -> dict[str, int]:
    """Steps of each stage, of the recipe as it is used."""
    for file in (bundle / "recipe.toml", run_of(bundle) / "recipe.toml"):
        with contextlib.suppress(OSError, KeyError, ValueError):
            recipe = tomllib.loads(file.read_text(encoding="utf-8"))
            return {stage: int(recipe[stage]["steps"]) for stage in ("detect", "refine")}
    return {}
