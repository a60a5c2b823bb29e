"""Label files become the masks that their own tools draw; what is broken, lost or unlabelled is one line."""

from __future__ import annotations

import base64
import json
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flawmap import cli
from flawmap.data.images import read_mask, read_pixels, write_image
from flawmap.data.labels import coco, label_studio, voc, yolo
from flawmap.data.labels.read import write_masks
from flawmap.data.labels.shapes import box, ellipse, polygon
from flawmap.errors import ConfigError, DataError

H, W = 40, 56
REFERENCE = json.loads((Path(__file__).parent / "labels" / "reference.json").read_text())


def unpacked(mask: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.unpackbits(np.frombuffer(base64.b64decode(mask), np.uint8))[: H * W].reshape(H, W) > 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """a.png and b.jpg of 56x40, and c.png in a folder below."""
    folder = tmp_path / "photos"
    (folder / "line 2").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "line 2/c.png"):
        write_image(folder / name, np.full((H, W, 3), 90, np.uint8))
    return folder


def labelme(shapes: list[dict[str, Any]], image: str = "a.png") -> dict[str, Any]:
    return {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None,
            "imageHeight": H, "imageWidth": W}  # fmt: skip


def of_coco(annotations: list[dict[str, Any]], image: str = "a.png") -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": image, "height": H, "width": W}],
        "annotations": [{"id": n, "image_id": 7, "category_id": 1} | each for n, each in enumerate(annotations)],
        "categories": [{"id": 1, "name": "scratch"}, {"id": 2, "name": "dent"}],
    }


def task(results: list[dict[str, Any]], image: str = "/data/upload/1/0a1b2c3d-a.png") -> dict[str, Any]:
    sized = [{"original_width": W, "original_height": H} | each for each in results]
    return {"id": 1, "data": {"image": image}, "annotations": [{"id": 1, "result": sized}]}


def cvat(inner: str, name: str = "a.png", size: tuple[int, int] = (H, W)) -> str:
    return (f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><image id="0" name="{name}" '
            f'width="{size[1]}" height="{size[0]}">{inner}</image></annotations>')  # fmt: skip


def drawn(content: Any, photos: Path, name: str = "labels.json", mask: str = "a.png", **asked: Any) -> Any:
    """The mask that one label file gives for a photo."""
    file = photos.parent / "labels" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    out = photos.parent / "masks"
    write_masks(str(file), str(photos), str(out), overwrite=True, **asked)
    stored = read_pixels(out / mask)
    assert set(np.unique(stored)) <= {0, 255} and stored.shape == (H, W, 3) and stored.dtype == np.uint8
    return read_mask(out / mask, (H, W))


@pytest.mark.parametrize("number", range(len(REFERENCE["labelme"])))
def test_labelme_shapes_are_as_labelme_draws_them(number: int, photos: Path) -> None:
    shape = REFERENCE["labelme"][number]
    found = drawn(labelme([{"label": "scratch", **{key: shape[key] for key in ("shape_type", "points")}}]), photos)
    assert np.array_equal(found, unpacked(shape["mask"]))


def test_a_labelme_hole_stays_and_what_is_ignored_marks_nothing(photos: Path) -> None:
    square = {"label": "dent", "shape_type": "rectangle", "points": [[5, 5], [25, 25]]}
    hole = {"label": "_background_", "shape_type": "rectangle", "points": [[10, 10], [15, 15]]}
    ignored = {"label": "__ignore__", "shape_type": "rectangle", "points": [[30, 30], [35, 35]]}
    found = drawn(labelme([square, hole, ignored]), photos)
    assert found.sum() == 21 * 21 - 6 * 6 and not found[10:16, 10:16].any()


def test_a_labelme_mask_lies_at_its_corner(photos: Path) -> None:
    import io

    part = np.zeros((4, 6), np.uint8)
    part[1:3, 2:5] = 1
    stream = io.BytesIO()
    Image.fromarray(part).save(stream, "PNG")
    shape = {"label": "dent", "shape_type": "mask", "points": [[10, 20], [15, 23]],
             "mask": base64.b64encode(stream.getvalue()).decode()}  # fmt: skip
    found = drawn(labelme([shape]), photos)
    assert found.sum() == 6 and found[21:23, 12:15].all()


@pytest.mark.parametrize("number", range(len(REFERENCE["coco"])))
def test_coco_polygons_and_runs_are_as_pycocotools_draws_them(number: int, photos: Path) -> None:
    case = REFERENCE["coco"][number]
    expected = unpacked(case["mask"])
    if not expected.any():
        with pytest.raises(DataError, match="nothing is marked"):
            drawn(of_coco([{"segmentation": case["segmentation"]}]), photos)
    else:
        assert np.array_equal(drawn(of_coco([{"segmentation": case["segmentation"]}]), photos), expected)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11 with NumPy 2
def test_polygons_and_runs_agree_with_pycocotools_where_it_is_installed() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(1)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(1, 90, 2))
        corners = rng.uniform(-10, 100, (int(rng.integers(3, 12)), 2)).round(int(rng.integers(0, 4)))
        theirs = mask.decode(mask.frPyObjects([corners.ravel().tolist()], height, width))[:, :, 0] > 0
        assert np.array_equal(polygon([tuple(corner) for corner in corners.tolist()], height, width), theirs)
        encoded = mask.encode(np.asfortranarray(theirs.astype(np.uint8)))["counts"]
        lengths = coco.decoded(encoded)
        assert np.array_equal(np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(width, height).T > 0, theirs)


def test_a_coco_box_alone_is_marked_whole(photos: Path) -> None:
    found = drawn(of_coco([{"bbox": [10, 5, 20, 10], "segmentation": []}]), photos)
    assert found.sum() == 200 and found[5:15, 10:30].all()


@pytest.mark.parametrize("number", range(len(REFERENCE["label_studio"])))
def test_a_brush_is_as_label_studio_draws_it(number: int, photos: Path) -> None:
    case = REFERENCE["label_studio"][number]
    value = {"format": "rle", "rle": case["rle"], "brushlabels": ["scratch"]}
    found = drawn([task([{"type": "brushlabels", "value": value}])], photos)
    assert np.array_equal(found, unpacked(case["mask"]))
    short = [
        {"image": "/data/local-files/?d=shots%2Fa.png", "tag": [{**value, "original_width": W, "original_height": H}]}
    ]
    assert np.array_equal(drawn(short, photos), found)


def test_label_studio_s_other_areas_are_in_percent_and_cancelled_ones_count_for_nothing(photos: Path) -> None:
    square = {
        "type": "polygonlabels",
        "value": {"points": [[25, 25], [75, 25], [75, 75], [25, 75]], "polygonlabels": ["a"]},
    }
    part = drawn([task([square])], photos)
    assert part.sum() == 20 * 28 and part[10:30, 14:42].all()
    upright = {
        "type": "rectanglelabels",
        "value": {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["a"]},
    }
    assert np.array_equal(drawn([task([upright])], photos), part)
    round_ = {
        "type": "ellipselabels",
        "value": {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "ellipselabels": ["a"]},
    }
    assert drawn([task([round_])], photos).sum() == pytest.approx(np.pi * 14 * 10, rel=0.03)
    cancelled = task([square])
    cancelled["annotations"].append({"was_cancelled": True, "result": task([round_])["annotations"][0]["result"]})
    assert np.array_equal(drawn([cancelled], photos), part)


OTHERS: dict[str, dict[str, Any]] = {
    "keypoints (1)": {"type": "keypointlabels", "value": {"x": 9, "y": 9, "width": 0.5, "keypointlabels": ["a"]}},
    "unfinished polygons (1)": {
        "type": "polygonlabels",
        "value": {"points": [[1, 1], [9, 9], [5, 1]], "closed": False, "polygonlabels": ["a"]},
    },
    "vectors (1)": {"type": "vectorlabels", "value": {"vertices": [{"x": 1, "y": 1}], "vectorlabels": ["a"]}},
    "": {"type": "textarea", "value": {"x": 1, "y": 1, "width": 90, "height": 90, "text": ["deep"]}},
}


@pytest.mark.parametrize("remark", OTHERS)
@pytest.mark.parametrize("beside", ["brush", "polygon", "rectangle"])
def test_what_marks_no_area_in_label_studio_is_left_out_with_a_note(photos: Path, remark: str, beside: str) -> None:
    case = REFERENCE["label_studio"][0]
    area = {
        "brush": {"type": "brushlabels", "value": {"format": "rle", "rle": case["rle"], "brushlabels": ["a"]}},
        "polygon": {"type": "polygon", "value": {"points": [[25, 25], [75, 25], [75, 75], [25, 75]]}},
        "rectangle": {"type": "rectanglelabels", "value": {"x": 25, "y": 25, "width": 50, "height": 50}},
    }[beside]
    alone = drawn([task([area])], photos)
    assert np.array_equal(drawn([task([area, OTHERS[remark]])], photos), alone)
    written = write_masks(photos.parent / "labels", photos, photos.parent / "again")
    said = [line for line in written.remarks if "no areas, and left out" in line]
    assert said == ([f"data/upload/1/a.png: {remark}: no areas, and left out"] if remark else [])


def test_a_box_in_label_studio_that_lacks_a_side_is_named(photos: Path) -> None:
    with pytest.raises(DataError, match="not a usable label file"):
        drawn([task([{"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 5}}])], photos)


@pytest.mark.parametrize("number", range(len(REFERENCE["cvat"])))
def test_a_cvat_mask_is_as_cvat_draws_it(number: int, photos: Path) -> None:
    case = dict(REFERENCE["cvat"][number])
    expected = unpacked(case.pop("mask"))
    given = " ".join(f'{key}="{value}"' for key, value in case.items())
    assert np.array_equal(drawn(cvat(f'<mask label="dent" {given}/>'), photos, "annotations.xml"), expected)


def test_cvat_s_polygons_boxes_and_ellipses_are_in_pixels_and_a_background_erases(photos: Path) -> None:
    square = '<polygon label="dent" points="10,5;30,5;30,15;10,15" z_order="0"/>'
    part = drawn(cvat(square), photos, "a.xml")
    assert part.sum() == 200 and part[5:15, 10:30].all()
    assert np.array_equal(drawn(cvat('<box label="dent" xtl="10" ytl="5" xbr="30" ybr="15"/>'), photos, "a.xml"), part)
    turned = drawn(cvat('<box label="dent" xtl="15" ytl="0" xbr="25" ybr="20" rotation="90"/>'), photos, "a.xml")
    assert np.array_equal(turned, part)
    hole = '<polygon label="background" points="12,7;14,7;14,9;12,9" z_order="1"/>'
    assert drawn(cvat(hole + square), photos, "a.xml").sum() == 200 - 4
    inner = '<ellipse label="dent" cx="20" cy="20" rx="12" ry="6" rotation="90"/>'
    found = drawn(cvat(inner), photos, "a.xml")
    assert found[9:31, 20].all() and not found[20, 27:].any() and found.sum() == pytest.approx(np.pi * 72, rel=0.03)


def test_pixels_by_hand_of_boxes_and_ellipses() -> None:
    assert box(1.6, 0, 3.4, 2, 3, 5).sum() == 2 and box(1.6, 0, 3.6, 2, 3, 5).sum() == 4
    assert ellipse(2, 2, 1, 1, 4, 4).tolist() == (np.pad(np.ones((2, 2), bool), 1)).tolist()


def test_yolo_polygons_are_in_shares_and_drawn_with_their_outline(photos: Path) -> None:
    found = drawn("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n", photos, "a.txt")
    assert found.sum() == 21 * 29 and found[10:31, 14:43].all()
    assert np.array_equal(drawn("0 0.5 0.5 0.5 0.5\n", photos, "a.txt"), found), "five numbers are a box"


def test_yolo_classes_have_the_names_of_data_yaml(photos: Path) -> None:
    labels = photos.parent / "labels"
    labels.mkdir()
    for text in ("names: [dent, 'long scratch']\n", "nc: 2\nnames:\n  0: dent\n  1: long scratch\nother: 1\n",
                 "names:\n- dent\n- \"long scratch\"\n"):  # fmt: skip
        assert yolo.class_names(text, ".yaml") == {0: "dent", 1: "long scratch"}
    (labels / "data.yaml").write_text("names: [dent, 'long scratch']\n")
    text = "0 0 0 0.2 0 0.2 0.2\n1 0.5 0.5 0.9 0.5 0.9 0.9\n"
    both, one = drawn(text, photos, "a.txt"), drawn(text, photos, "a.txt", classes=["long scratch"])
    assert both[:5].any() and not one[:5].any() and one.sum() < both.sum()


@pytest.mark.parametrize("kind", ["palette", "grey", "colour"])
def test_voc_s_indices_are_classes_and_its_void_edge_marks_nothing(kind: str, photos: Path) -> None:
    values = np.zeros((H, W), np.uint8)
    values[9:21, 9:21] = 255
    values[10:20, 10:20] = 1
    values[13:15, 13:15] = 0
    values[30:35, 30:35] = 2
    image = Image.fromarray(values)
    if kind != "grey":
        image = image.convert("P") if kind == "x" else Image.frombytes("P", (W, H), values.tobytes())
        colours = [channel for index in range(256) for channel in voc.colour_of(index)]
        image.putpalette(colours)
    folder = photos.parent / "SegmentationClass"
    folder.mkdir()
    (image.convert("RGB") if kind == "colour" else image).save(folder / "a.png")
    written = write_masks(folder, photos, photos.parent / "masks")
    found = read_mask(photos.parent / "masks" / "a.png")
    assert np.array_equal(found, (values == 1) | (values == 2)) and written.classes == {"1": 1, "2": 1}
    assert any("void" in remark for remark in written.remarks)
    write_masks(folder, photos, photos.parent / "one", classes=["2"])
    assert np.array_equal(read_mask(photos.parent / "one" / "a.png"), values == 2)


def test_a_whole_voc_data_set_finds_the_photos_beside_its_masks(photos: Path) -> None:
    photos.rename(photos.parent / "JPEGImages")
    folder = photos.parent / "SegmentationClass"
    folder.mkdir()
    marked = np.zeros((H, W), np.uint8)
    marked[3:6, 3:6] = 1
    Image.fromarray(marked).save(folder / "a.png")
    written = write_masks(folder, photos.parent, photos.parent / "masks")
    assert list(written.masks) == [photos.parent / "JPEGImages" / "a.png"]


def test_voc_s_colours_are_those_of_its_palette() -> None:
    assert [voc.colour_of(index) for index in (0, 1, 2, 4, 8, 20, 255)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 128), (64, 0, 0), (0, 64, 128), (224, 224, 192)]  # fmt: skip


def test_a_labelmap_names_the_colours_of_a_mask(photos: Path) -> None:
    folder = photos.parent / "SegmentationClass"
    folder.mkdir()
    (photos.parent / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nrust:250,50,83::\n"
    )
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[3:6, 3:9] = (250, 50, 83)
    Image.fromarray(pixels).save(folder / "a.png")
    assert write_masks(folder, photos, photos.parent / "masks").classes == {"rust": 1}
    assert read_mask(photos.parent / "masks" / "a.png").sum() == 18


@pytest.mark.parametrize("head", ["ImageId,ClassId,EncodedPixels", "ImageId_ClassId,EncodedPixels"])
def test_severstal_s_runs_go_down_the_columns_from_1(head: str, photos: Path) -> None:
    named = (lambda kind: f"a.png,{kind}") if "ClassId," in head and "_" not in head else (lambda kind: f"a.png_{kind}")
    text = f"{head}\n{named(1)},1 3 41 2\n{named(3)},{H * W} 1\n{named(4)},\n"
    expected = np.zeros((H, W), bool)
    expected[0:3, 0] = expected[0:2, 1] = expected[-1, -1] = True
    assert np.array_equal(drawn(text, photos, "train.csv"), expected)
    assert drawn(text, photos, "train.csv", classes=["3"]).sum() == 1


def test_a_brush_s_bits_by_hand() -> None:
    # 4 values of 8 bits: a run (1) of length code 0 (00) in 2 bits, 4 less one (11), of 255.
    bits = f"{4:032b}" + f"{7:05b}" + f"{1:04b}" * 4 + "1" + "00" + "11" + "11111111"
    rle = [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]
    assert label_studio.decoded(rle, (1, 1)).tolist() == [[True]]


def test_several_label_files_of_several_formats_are_joined(photos: Path) -> None:
    labels = photos.parent / "labels"
    labels.mkdir()
    square = {"segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]}
    (labels / "one.json").write_text(json.dumps(of_coco([square])))
    (labels / "two.json").write_text(json.dumps(of_coco([square], "line 2\\c.png")))
    (labels / "b.json").write_text(
        json.dumps(labelme([{"label": "dent", "points": [[1, 1], [9, 1], [9, 9]]}], "..\\b.jpg"))
    )
    (labels / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (labels / "readme.txt").write_text("made on Monday")
    written = write_masks(labels, photos, photos.parent / "masks")
    assert sorted(str(path.relative_to(photos.parent / "masks")) for path in written.masks.values()) == [
        "a.png", "b.png", "line 2/c.png"]  # fmt: skip
    assert read_mask(photos.parent / "masks" / "a.png")[4, 4] and read_mask(photos.parent / "masks" / "a.png")[20, 28]
    assert written.classes == {"0": 1, "dent": 1, "scratch": 2}
    assert written.remarks == ["passed over as no labels: readme.txt"]


def test_what_is_not_labelled_or_not_there_is_said(photos: Path) -> None:
    document = of_coco([{"segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]}])
    document["images"] += [{"id": 8, "file_name": "b.jpg"}, {"id": 9, "file_name": "z.png"}]
    (photos.parent / "coco.json").write_text(json.dumps(document))
    written = write_masks(photos.parent / "coco.json", photos, photos.parent / "masks")
    assert [path.name for path in written.masks] == ["a.png"]
    told = " | ".join(written.remarks)
    assert "1 labelled photos are not there: z.png" in told
    assert "1 photos are labelled with nothing that counts and have no mask" in told and "b.jpg" in told
    assert "1 photos are not labelled and have no mask" in told and "c.png" in told


def test_labels_beside_the_photos_and_photos_of_one_name_find_each_other(photos: Path) -> None:
    (photos / "line 1").mkdir()
    write_image(photos / "line 1" / "c.png", np.zeros((H, W, 3), np.uint8))
    shape = {"label": "dent", "points": [[1, 1], [9, 1], [9, 9]]}
    for line in ("line 1", "line 2"):
        (photos / line / "c.json").write_text(json.dumps(labelme([shape], f"{line}/c.png")))
    written = write_masks(photos, photos, photos.parent / "masks")
    assert len(written.masks) == 2
    (photos / "line 1" / "c.json").write_text(json.dumps(labelme([shape], "c.png")))
    with pytest.raises(DataError, match="could be"):
        write_masks(photos, photos, photos.parent / "other")


SQUARE = {"segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "{", "not a usable label file"),
        ("a.json", "", "not a usable label file"),
        ("a.json", "[" * 100_000, "not a usable|nested"),
        ("a.json", '{"hello": 1}', "no label file.*expected one of labelme"),
        ("a.json", json.dumps(labelme([{"points": [[1, 1]]}])), "lacks 'label'"),
        ("a.json", json.dumps(labelme([{"label": "x", "points": [[1, 1], [2, 2]]}])), "at least 3"),
        ("a.json", json.dumps(labelme([{"label": "x", "points": [[1, "a"], [2, 2], [3, 3]]}])), "not a usable"),
        ("a.json", json.dumps(labelme([{"label": "x", "shape_type": "cube", "points": []}])), "no shape_type cube"),
        ("a.json", json.dumps(labelme([]) | {"imageHeight": 41}), "56x41 pixels there, but"),
        ("a.json", json.dumps(labelme([]) | {"imageHeight": W, "imageWidth": H}), "turned by its EXIF"),
        ("a.json", json.dumps(of_coco([SQUARE | {"image_id": 9}])), "image 9, which is not in the file"),
        ("a.json", json.dumps(of_coco([{"segmentation": [[1, 2, 3]]}])), "pairs of x and y"),
        ("a.json", json.dumps(of_coco([{"segmentation": {"size": [H, W], "counts": [1, 2]}}])), "come to 3 pixels"),
        ("a.json", json.dumps(of_coco([{"segmentation": {"size": [9, 9], "counts": [81]}}])), "9x9 pixels"),
        ("a.json", json.dumps(of_coco([{"segmentation": {"size": [H, W], "counts": "o"}}])), "cut short"),
        ("a.json", json.dumps(of_coco([{"segmentation": []}])), "neither a segmentation nor a box"),
        ("a.json", json.dumps(of_coco([{"segmentation": [[1, 2, 1e99, 2, 3, 3]]}])), "beyond all photos"),
        ("a.json", json.dumps(of_coco([SQUARE], "x.png")), "none of the 1 labelled photos"),
        ("a.json", json.dumps([task([{"type": "brushlabels", "value": {"rle": [0, 0, 1]}}])]), "cut short"),
        ("a.json", json.dumps([task([{"type": "brushlabels", "value": {"rle": [0] * 40}}])]), "holds 0 values"),
        ("a.xml", "<annotations><image", "not a usable label file"),
        ("a.xml", cvat('<polygon label="x" points="1,1;2,2"/>'), "at least 3"),
        ("a.xml", cvat('<polygon points="1,1;2,2;3,3"/>'), "lacks 'label'"),
        ("a.xml", cvat('<mask label="x" rle="1,2" left="0" top="0" width="2" height="2"/>'), "come to 3 pixels"),
        ("a.xml", cvat("", size=(9, 9)), "9x9 pixels there"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY a "b">]><annotations/>', "entities"),
        ("a.xml", "<annotations><track/></annotations>", "tracks of a video"),
        ("a.txt", "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7\n", "line 1 has 7 values"),
        ("a.txt", "0 10 20 30 40 50 60\n", "shares of the sides, not pixels"),
        ("a.txt", "0 0.1 0.2 x 0.3 0.1 0.1\n", "line 1 is not of numbers"),
        ("a.csv", "ImageId,ClassId,EncodedPixels\na.png,1,5\n", "row 2: expected pairs"),
        ("a.csv", "ImageId,ClassId,EncodedPixels\na.png,1,0 5\n", "counted from 1"),
        ("a.csv", f"ImageId,ClassId,EncodedPixels\na.png,1,{H * W} 2\n", "beyond the photo"),
        ("a.json", json.dumps(of_coco([])), "nothing is marked"),
    ],
)  # fmt: skip
def test_a_broken_label_file_is_one_line_that_names_it_and_nothing_is_written(
    name: str, content: str, told: str, photos: Path
) -> None:
    labels = photos.parent / "labels"
    labels.mkdir()
    (labels / name).write_text(content)
    (labels / "good.json").write_text(json.dumps(of_coco([SQUARE], "b.jpg")))
    sources: Any = labels / name if "no label file" in told or "none of" in told or "nothing" in told else labels
    with pytest.raises(DataError, match=told) as raised:
        write_masks(sources, photos, photos.parent / "masks")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    assert sorted(path.name for path in photos.parent.iterdir()) == ["labels", "photos"]


def test_a_broken_mask_or_a_photo_in_place_of_one_is_one_line(photos: Path) -> None:
    folder = photos.parent / "SegmentationClass"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG no")
    with pytest.raises(DataError, match=r"a\.png: not a usable label file"):
        write_masks(folder, photos, photos.parent / "masks")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (H, W), dtype=np.uint8)).save(folder / "a.png")
    with pytest.raises(DataError, match="more than classes"):
        write_masks(folder, photos, photos.parent / "masks")


def claims(width: int, height: int) -> bytes:
    """A PNG whose header claims so many pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + head
        + struct.pack(">I", zlib.crc32(head))
        + b"\0\0\0\x10IDAT"
        + bytes(20)
    )


WIDE = base64.b64encode(claims(20_000, 20_000)).decode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (labelme([{"label": "x", "shape_type": "mask", "points": [[0, 0], [9, 9]], "mask": WIDE}]), "larger than any"),
        (labelme([{"label": "x", "shape_type": "mask", "points": [[0, 0], [9, 9]], "mask": "aGVsbG8="}]), "no PNG"),
        (labelme([{"label": "x", "shape_type": "circle", "points": [[0, 0], [9e6, 9e6]]}]), "wider than any"),
        (of_coco([{"segmentation": [[0, 0, 9e6, 9e6, 0, 9e6]]}]), "outline is longer"),
        (of_coco([{"segmentation": {"size": [1 << 31, 1 << 31], "counts": [1 << 62]}}]), "runs are of"),
        (of_coco([{"segmentation": {"size": [H, W], "counts": [1 << 62] * 4 + [H * W]}}]), "runs come to 18446744"),
        (cvat('<mask label="x" rle="4294967296" left="0" top="0" width="65536" height="65536"/>'), "larger than the"),
        (cvat('<mask label="x" rle="4" left="0" top="0" width="-2" height="-2"/>'), "no size"),
    ],
)
def test_what_no_photo_can_hold_is_refused_before_it_takes_memory_or_time(
    content: Any, told: str, photos: Path
) -> None:
    if isinstance(content, dict) and "images" in content:
        del content["images"][0]["height"]
    with pytest.raises(DataError, match=told) as raised:
        drawn(content, photos, "labels.xml" if isinstance(content, str) else "labels.json")
    assert "\n" not in str(raised.value)


def test_a_voc_mask_that_claims_more_pixels_than_photos_have_is_one_line(photos: Path) -> None:
    folder = photos.parent / "SegmentationClass"
    folder.mkdir()
    (folder / "a.png").write_bytes(claims(20_000, 20_000))
    with pytest.raises(DataError, match=r"a\.png.*larger than any photo"):
        write_masks(folder, photos, photos.parent / "masks")


def test_a_severstal_cell_of_many_runs_is_read(photos: Path) -> None:
    write_image(photos / "large.png", np.zeros((400, 500, 3), np.uint8))
    pairs = " ".join(f"{start} 1" for start in range(1, 400 * 500, 4))
    assert len(pairs) > 131_072, "beyond the limit that csv has by itself"
    labels = photos.parent / "train.csv"
    labels.write_text(f"ImageId,ClassId,EncodedPixels\nlarge.png,1,{pairs}\n")
    assert write_masks(labels, photos, photos.parent / "masks").classes == {"1": 1}
    assert read_mask(photos.parent / "masks" / "large.png").sum() == 50_000


@pytest.mark.parametrize("kind", ["COCO", "Label Studio", "VOC", "rings"])
def test_of_many_areas_one_is_in_memory_at_a_time(kind: str, photos: Path) -> None:
    side, areas, labels = 600, 60, photos.parent / "labels"
    write_image(photos / "a.png", np.zeros((side, side, 3), np.uint8))
    labels.mkdir()
    image = Image.frombytes("P", (side, side), bytes(side) + b"\1" * side + bytes(side * (side - 2)))
    if kind == "VOC":
        for number in range(areas):
            image.save(labels / f"{'a' if number == 0 else number}.png")
    elif kind == "Label Studio":
        bits = f"{4 * side * side:032b}" + f"{7:05b}" + f"{15:04b}" * 4
        for start in range(0, 4 * side * side, 1 << 16):  # runs of one value, the alpha's too
            bits += "1" + "00" + f"{min(1 << 16, 4 * side * side - start) - 1:016b}" + "11111111"
        rle = [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]
        area = {"type": "brushlabels", "value": {"rle": rle}, "original_width": side, "original_height": side}
        (labels / "a.json").write_text(json.dumps([task([area] * areas)]))
    else:
        ring = [2, 2, 600, 2, 600, 6, 2, 6]
        counts = {"size": [side, side], "counts": [0, side, side * side - side]}
        many = [{"segmentation": [ring] * areas}] if kind == "rings" else [{"segmentation": counts}] * areas
        document = of_coco(many)
        document["images"][0] |= {"height": side, "width": side}
        (labels / "a.json").write_text(json.dumps(document))
    tracemalloc.start()
    try:
        write_masks(labels, photos, photos.parent / "masks")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * side * side, f"{peak / side / side:.0f} bytes a pixel, of {areas} areas"


def test_a_name_with_a_line_break_is_told_in_one_line(photos: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 1 labelled photos.*two\\nlines") as raised:
        drawn(of_coco([SQUARE], "two\nlines.png"), photos)
    assert "\n" not in str(raised.value)
    document = of_coco([SQUARE])
    document["images"] += [{"id": 9, "file_name": "two\nlines.png"}]
    (photos.parent / "coco.json").write_text(json.dumps(document))
    remarks = write_masks(photos.parent / "coco.json", photos, photos.parent / "out").remarks
    assert "1 labelled photos are not there: two\\nlines.png" in remarks


def test_an_unknown_class_lists_those_there_are(photos: Path) -> None:
    (photos.parent / "coco.json").write_text(json.dumps(of_coco([SQUARE])))
    with pytest.raises(ConfigError, match=r"no class dent is marked.*there are: scratch"):
        write_masks(photos.parent / "coco.json", photos, photos.parent / "masks", classes=["dent"])


def test_masks_of_an_earlier_run_are_replaced_only_when_asked(photos: Path) -> None:
    (photos.parent / "coco.json").write_text(json.dumps(of_coco([SQUARE])))

    def ask(**given: Any) -> None:
        write_masks(photos.parent / "coco.json", photos, photos.parent / "masks", **given)

    ask()
    (photos.parent / "masks" / "notes.txt").write_text("mine")
    write_image(photos.parent / "masks" / "b.png", np.zeros((H, W), np.uint8))
    with pytest.raises(ConfigError, match="--overwrite"):
        ask()
    ask(overwrite=True)
    assert sorted(path.name for path in (photos.parent / "masks").iterdir()) == ["a.png", "notes.txt"]


def test_two_photos_that_would_share_a_mask_are_refused(photos: Path) -> None:
    write_image(photos / "b.png", np.zeros((H, W, 3), np.uint8))
    document = of_coco([SQUARE], "b.jpg")
    document["images"].append({"id": 8, "file_name": "b.png"})
    document["annotations"].append({"id": 5, "image_id": 8, "category_id": 2, **SQUARE})
    (photos.parent / "coco.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="would have one mask"):
        write_masks(photos.parent / "coco.json", photos, photos.parent / "masks")
    assert not (photos.parent / "masks").exists()


def test_the_command_says_what_it_wrote_and_what_it_passed_over(photos: Path) -> None:
    (photos.parent / "coco.json").write_text(json.dumps(of_coco([SQUARE])))
    words = ["masks", photos.parent / "coco.json", photos, "--out", photos.parent / "masks"]
    told = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert told.exit_code == 0, told.output
    assert told.stdout == f"wrote 1 masks to {photos.parent / 'masks'}; areas marked: scratch 1\n"
    assert told.stderr.startswith("flawmap: 2 photos are not labelled and have no mask")
    again = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert again.exit_code == 2 and len(again.stderr.splitlines()) == 1
    alone = CliRunner().invoke(cli.app, ["masks", "coco.json", "--out", "x"])
    assert alone.exit_code == 2 and "last, the folder of the photos" in alone.stderr


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_severstal_table_of_a_spreadsheet_is_read(mark: str, photos: Path) -> None:
    text = f"\ufeffImageId{mark}ClassId{mark} EncodedPixels\r\na.png{mark}1{mark}1 3 41 2\r\nb.jpg{mark}2{mark}\r\n"
    expected = np.zeros((H, W), bool)
    expected[0:3, 0] = expected[0:2, 1] = True
    assert np.array_equal(drawn(text, photos, "train.csv"), expected)


@pytest.mark.parametrize("value", [None, "wide", [], 0, -5, True])
def test_a_size_that_is_none_is_told_by_its_field(value: object, photos: Path) -> None:
    document = of_coco([{"segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]}])
    document["images"][0]["width"] = value
    word = "null" if value is None else str(value)
    with pytest.raises(DataError) as caught:
        drawn(json.dumps(document), photos, "coco.json")
    assert f"width of image {document['images'][0]['id']} is {word}; expected pixels, as 640" in str(caught.value)
    document["images"][0] |= {"width": str(W), "height": str(H)}
    assert drawn(json.dumps(document), photos, "coco.json").any()
    document["annotations"][0] |= {"segmentation": [], "bbox": [1, None, 3, 4]}
    with pytest.raises(DataError, match="a number is missing, or something else stands in its place"):
        drawn(json.dumps(document), photos, "coco.json")
