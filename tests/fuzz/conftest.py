"""What the fuzz tests share: a tiny whole bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flawmap.bundle import Bundle, build, save_bundle
from flawmap.config import load_recipe
from flawmap.measure.threshold import Threshold

TINY = [
    "image.height=32", "image.width=32", "model.codes=16", "model.code_length=8", "model.discrete_width=8",
    "model.discrete_hidden=4", "model.restriction_widths=[8, 8, 8]", "model.decoder_widths=[8, 8, 8]",
    "model.detection_width=4", "refine.steps=0",
]  # fmt: skip
SCORES = [0.11, 0.23, 0.31]
FACTS: dict[str, Any] = {
    "flawmap": "0.2", "created": "2026-01-01T00:00:00+00:00", "data": "Blech", "layout": "folder", "trained_on": 20,
    "photo_size": [480, 640], "inspected_at": [32, 32], "varied": False, "held_out": 3, "calibration": "held-out good",
    "held_out_folders": 2, "groups": {"count": 3, "by": "order"}, "reconstruction_detail": 0.4, "seed": 0,
    "orientation": {"photos": 8, "apart": 0.0, "as_they_lie": 0.5, "turned": 0.5, "any_turn": 0.1},
    "smallest_found": {
        "pixels": 12.5, "tried": [2.0, 64.0], "contrast": 0.2, "photos": 3, "trials": 90, "threshold": 0.31
    },
    "machine": "2 CPU threads", "minutes": 3.5, "resumed": False, "peak_memory_mb": 900, "real_defects": ["a.png"],
    "evidence": {"map": 0.9}, "held_out_scores": SCORES, "held_out_peaks": SCORES, "good_photos": ["a", "b", "c"],
    "set_aside": ["d"], "set_aside_scores": [0.7], "set_aside_sha256": ["ff"], "set_aside_share": 0.05,
}  # fmt: skip


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with all facts that a training notes; tests copy it."""
    recipe = load_recipe(None, TINY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(recipe.model, with_refinement=False)
    limit = Threshold(0.31, 0.31, overkill=0.05, held_out=3, supported=False, method="held-out good", note="Few.")
    path = tmp_path_factory.mktemp("bundles") / "part.bundle"
    save_bundle(Bundle(model, recipe, limit, FACTS), path)
    return path
