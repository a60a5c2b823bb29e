"""`evaluate --protocol authors`: the central 224x224 in 256x256, and of a resized mask what is all defect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_helpers import succeed
from sklearn.metrics import average_precision_score, roc_auc_score

import flawmap
from flawmap.data.images import read_mask, write_image
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import SURFACES, write_sample_parts

PIXELS = ("pixel_auroc", "pixel_ap", "seg_f1", "aupro")
IMAGES = ("image_auroc", "image_ap", "f1_max", "escape", "overkill")
BORDER = 4  # 16 pixels in 256, of 64


def measure(bundle: Path, data: Path, out: Path, protocol: str) -> dict[str, Any]:
    """metrics.json, and what was said of it in `said`."""
    said = succeed("evaluate", bundle, data, "--protocol", protocol, "--out", out / protocol)
    found: dict[str, Any] = json.loads((out / protocol / "metrics.json").read_text(encoding="utf-8"))
    assert found["protocol"] == protocol and found["map_size"] == {"full": "photo"}.get(protocol, protocol)
    return found | {"said": said}


def masks(data: Path) -> list[Path]:
    return [sample.mask for sample in read_layout(data).test if sample.mask is not None]


def test_authors_figures_are_those_of_the_middle(trained: Path, metal: Path, tmp_path: Path) -> None:
    full, authors = (measure(trained, metal, tmp_path, protocol) for protocol in ("full", "authors"))
    for name in IMAGES:
        assert authors[name] == full[name]
    inspector, seen, marked = flawmap.load(trained), [], []
    middle = (slice(BORDER, 64 - BORDER),) * 2
    for sample in read_layout(metal).test:
        seen.append(inspector.inspect(sample.image).map[middle].ravel())
        mask = np.zeros((64, 64), bool) if sample.mask is None else read_mask(sample.mask, (64, 64))
        marked.append(mask[middle].ravel())
    truth, values = np.concatenate(marked), np.concatenate(seen)
    wanted = {"pixel_auroc": roc_auc_score(truth, values), "pixel_ap": average_precision_score(truth, values)}
    for name, value in wanted.items():
        assert authors[name]["value"] == pytest.approx(value, abs=1e-3)
        assert abs(full[name]["value"] - value) > 2e-3
        assert f"{authors[name]['value']:.3f}" in authors["said"]


def test_a_defect_in_the_border_alone_is_none_for_the_authors(trained: Path, metal: Path, tmp_path: Path) -> None:
    data = shutil.copytree(metal, tmp_path / "metal")
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[: BORDER - 1] = 255
    for mask in masks(data):
        write_image(mask, edge)
    full, authors = (measure(trained, data, tmp_path, protocol) for protocol in ("full", "authors"))
    for name in PIXELS:
        assert full[name]["value"] is not None
        assert authors[name] == {"value": None, "low": None, "high": None}
    assert authors["image_auroc"] == full["image_auroc"]
    assert authors["said"].count("not measurable here") == len(PIXELS)
    edge[BORDER] = 255  # one row further in, it is one
    for mask in masks(data):
        write_image(mask, edge)
    assert measure(trained, data, tmp_path / "in", "authors")["pixel_auroc"]["value"] is not None


def test_of_a_resized_mask_the_authors_keep_what_is_all_defect(trained: Path, tmp_path: Path) -> None:
    data = tmp_path / "large"
    write_sample_parts(data, SURFACES[0], size=128, train=1, good=2, bad=2, seed=0)
    striped = np.zeros((128, 128, 3), np.uint8)
    striped[1::2] = 255  # every second row, which nearest takes: each pixel of 64x64 is half a defect
    for mask in masks(data):
        write_image(mask, striped)
    full, authors = (measure(trained, data, tmp_path, protocol) for protocol in ("full", "authors"))
    assert (full["empty_mask"], authors["empty_mask"]) == (0, 2)


def test_thin_scratches_on_large_photos_are_measured_at_the_photos_size(trained: Path, tmp_path: Path) -> None:
    """On 512x512 pixels, seen at 64x64, where a mask made smaller by nearest neighbour may have none of them."""
    data = tmp_path / "large"
    write_sample_parts(data, SURFACES[0], size=512, train=1, good=2, bad=3, seed=0)
    for width, mask in enumerate(masks(data), 1):
        line = np.zeros((512, 512, 3), np.uint8)
        line[11 + 90 * width : 11 + 91 * width, 60:330] = 255
        write_image(mask, line)
    found = measure(trained, data, tmp_path, "full")
    assert (found["empty_mask"], found["defective"]) == (0, 3)
    inspector, seen, marked = flawmap.load(trained), [], []
    for sample in read_layout(data).test:
        seen.append(inspector.inspect(sample.image).map.ravel())
        marked.append(np.zeros(512 * 512, bool) if sample.mask is None else read_mask(sample.mask, (512, 512)).ravel())
    truth, values = np.concatenate(marked), np.concatenate(seen)
    assert truth.sum() == 270 * (1 + 2 + 3)
    assert found["pixel_auroc"]["value"] == pytest.approx(roc_auc_score(truth, values), abs=1e-3)
    assert found["pixel_ap"]["value"] == pytest.approx(average_precision_score(truth, values), abs=1e-3)
