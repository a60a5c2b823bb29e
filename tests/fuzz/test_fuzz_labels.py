"""Damaged label files of every format: `flawmap masks` says one line and writes nothing, or writes whole masks."""

from __future__ import annotations

import base64
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import changed_bytes, changed_text, changed_value, held_to_bounds, mutations
from PIL import Image as Pillow

from flawmap.data.images import read_pixels, write_image
from flawmap.data.labels.read import write_masks
from flawmap.errors import FlawmapError

H, W = 40, 56
REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "labels" / "reference.json").read_text())
BRUSH = REFERENCE["label_studio"][0]
RUNS = next(
    case["segmentation"] for case in REFERENCE["coco"]
    if isinstance(case["segmentation"], dict) and isinstance(case["segmentation"]["counts"], str)
)  # fmt: skip


def bitmap() -> str:
    stream = io.BytesIO()
    Pillow.fromarray(np.ones((4, 6), np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def labelme() -> dict[str, Any]:
    kinds = {"polygon": [[3, 3], [20, 5], [9, 30]], "rectangle": [[5, 5], [25, 25]], "circle": [[20, 20], [25, 20]],
             "line": [[1, 1], [30, 30]], "linestrip": [[1, 1], [30, 30], [40, 2]], "point": [[9, 9]]}  # fmt: skip
    shapes: list[dict[str, Any]] = [
        {"label": "scratch", "shape_type": kind, "points": points} for kind, points in kinds.items()
    ]
    shapes += [{"label": "dent", "shape_type": "mask", "points": [[10, 20], [15, 23]], "mask": bitmap()}]
    return {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": "a.png", "imageData": None,
            "imageHeight": H, "imageWidth": W}  # fmt: skip


def coco() -> dict[str, Any]:
    marked = [
        {"segmentation": [[3, 3, 20, 5, 9, 30]]}, {"bbox": [10, 5, 20, 10]},
        {"segmentation": {"size": [H, W], "counts": [100, 20, H * W - 120]}},
        {"segmentation": RUNS},
    ]  # fmt: skip
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": H, "width": W},
            {"id": 8, "file_name": "lost.png", "height": H, "width": W},
        ],
        "annotations": [{"id": n, "image_id": 7, "category_id": 1, **each} for n, each in enumerate(marked)],
        "categories": [{"id": 1, "name": "scratch"}],
    }


def label_studio() -> list[dict[str, Any]]:
    values = [
        {"format": "rle", "rle": BRUSH["rle"], "brushlabels": ["scratch"]},
        {"points": [[25, 25], [75, 25], [75, 75]], "polygonlabels": ["a"]},
        {"x": 10, "y": 10, "width": 30, "height": 20, "rotation": 5, "rectanglelabels": ["b"]},
        {"x": 50, "y": 50, "radiusX": 8, "radiusY": 5, "rotation": 0, "ellipselabels": ["c"]},
    ]
    sizes = {"original_width": W, "original_height": H}
    results = [{**sizes, "type": [*value][-1], "value": value} for value in values]
    image = "/data/upload/1/0a1b2c3d-a.png"
    return [{"id": 1, "data": {"image": image}, "annotations": [{"id": 1, "result": results}]}]


CVAT = f"""<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
<image id="0" name="a.png" width="{W}" height="{H}">
<polygon label="scratch" points="3,3;20,5;9,30" z_order="0"/>
<box label="dent" xtl="5" ytl="5" xbr="25" ybr="20" rotation="10" z_order="1"/>
<ellipse label="dent" cx="30" cy="20" rx="6" ry="4" rotation="30"/>
<mask label="scratch" rle="3, 5, 8" left="10" top="10" width="4" height="4"/>
<points label="x" points="1,1"/>
</image><image id="1" name="lost.png" width="{W}" height="{H}"><points label="x" points="1,1"/></image></annotations>
"""
SEVERSTAL = "ImageId,ClassId,EncodedPixels\na.png,1,3 8 60 9\na.png,2,\na.png,3,100 5\n"
YOLO = "0 0.1 0.1 0.5 0.2 0.3 0.8\n1 0.5 0.5 0.2 0.3\n"
NAMES = "path: .\nnames:\n  0: scratch\n  1: dent\n"
TEXTS = {
    "labelme": ("labels.json", json.dumps(labelme(), indent=1)),
    "COCO": ("labels.json", json.dumps(coco(), indent=1)),
    "Label Studio": ("labels.json", json.dumps(label_studio())),
    "CVAT": ("labels.xml", CVAT),
    "Severstal": ("labels.csv", SEVERSTAL),
    "YOLO": ("a.txt", YOLO),
    "YOLO's names": ("data.yaml", NAMES),
    "VOC": ("a.png", ""),
    "VOC's names": ("labelmap.txt", "background:0,0,0::\nscratch:128,0,0::\n"),
}  # fmt: skip


def voc() -> bytes:
    indices = np.zeros((H, W), np.uint8)
    indices[5:15, 10:30], indices[4, 10:30] = 1, 255
    image = Pillow.fromarray(indices, "P")
    image.putpalette([0, 0, 0, 128, 0, 0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mutated(kind: str, number: int) -> bytes:
    chance, text = random.Random(f"{kind} {number}"), TEXTS[kind][1]
    if kind == "VOC":
        return changed_bytes(voc(), chance)
    if TEXTS[kind][0].endswith(".json") and number % 2:
        return changed_value(json.loads(text), chance).encode("utf-8", "surrogatepass")
    return changed_text(text, chance)


@pytest.mark.filterwarnings("ignore")  # of Pillow, on what it meets in damaged pictures
@pytest.mark.parametrize("kind", TEXTS)
def test_a_mutated_label_file_is_one_line_or_whole_masks(kind: str, tmp_path: Path) -> None:
    photos, labels, out = tmp_path / "photos", tmp_path / "labels", tmp_path / "masks"
    photos.mkdir()
    write_image(photos / "a.png", np.full((H, W, 3), 90, np.uint8))
    labels.mkdir()
    file = labels / TEXTS[kind][0]
    if kind == "YOLO's names":
        (labels / "a.txt").write_text(YOLO)
    elif kind == "VOC's names":
        (labels / "a.png").write_bytes(voc())
    file.write_bytes(voc() if kind == "VOC" else TEXTS[kind][1].encode())
    assert len(write_masks(labels, photos, out).masks) == 1, "unchanged, it is read"
    for number in range(mutations("labels", len(TEXTS))):
        shutil.rmtree(out, ignore_errors=True)
        file.write_bytes(mutated(kind, number))
        with held_to_bounds(f"mutation {number} of {kind}"):
            try:
                written = write_masks(labels, photos, out)
            except FlawmapError:
                assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "photos"], "nothing is left"
                raise
            assert list(written.masks) == [photos / "a.png"] and [*out.rglob("*.*")] == [out / "a.png"]
            stored = read_pixels(out / "a.png")
            assert (stored.shape == (H, W, 3) and set(np.unique(stored)) == {0, 255}) or stored.min() == 255
            assert all("\n" not in remark for remark in written.remarks)
