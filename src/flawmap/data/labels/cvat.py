"""CVAT for images 1.1: one XML for many photos, with polygons, masks, ellipses and boxes in pixels.

Masks are runs by rows within a box (cvat_sdk.masks); polygons are drawn as COCO's tool does, which CVAT's own mask
export uses; of boxes and ellipses, which may be turned, the pixels whose middle is inside. Lines, points and skeletons
mark no area and are counted. Shapes lie over each other by z_order; one called background erases.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from flawmap.data.images import Mask
from flawmap.data.labels.labelme import placed
from flawmap.data.labels.shapes import (
    Draw,
    Labelled,
    Shape,
    box,
    ellipse,
    points_of,
    polygon,
    run_lengths,
    runs,
    side_of,
)

AREAS = ("polygon", "mask", "ellipse", "box")
OTHERS = ("polyline", "points", "skeleton", "cuboid")


def fits(root: ElementTree.Element) -> bool:
    """Whether an XML document is CVAT's."""
    return root.tag == "annotations"


def read(root: ElementTree.Element, file: Path) -> list[Labelled]:
    """The photos of a file. Raises KeyError, ValueError for what CVAT does not write."""
    if root.find("track") is not None:
        raise ValueError("it holds tracks of a video; export the frames as 'CVAT for images'")
    photos = []
    for image in root.iter("image"):
        size = side_of(image.attrib["height"], "height"), side_of(image.attrib["width"], "width")
        areas = sorted((each for each in image if each.tag in AREAS), key=lambda each: int(each.get("z_order", 0)))
        others = sum(each.tag in OTHERS for each in image)
        remark = f"{others} lines, points or others mark no area" if others else ""
        shapes = [
            Shape(each.attrib["label"], _drawn(each), each.attrib["label"].lower() in ("background", "_background_"))
            for each in areas
        ]
        photos.append(Labelled(image.attrib["name"].replace("\\", "/"), file, shapes, size, remark=remark))
    return photos


def _drawn(element: ElementTree.Element) -> Draw:
    given = element.attrib

    def numbers(*names: str) -> list[float]:
        return [
            value for pair in points_of([[float(given[n]), 0] for n in names], 1, element.tag) for value in pair[:1]
        ]

    angle = float(given.get("rotation", 0))
    if element.tag == "polygon":
        points = points_of([pair.split(",") for pair in given["points"].split(";")], 3, "a polygon")
        return lambda height, width: polygon(points, height, width)
    if element.tag == "box":
        left, top, right, bottom = numbers("xtl", "ytl", "xbr", "ybr")
        return lambda height, width: box(left, top, right, bottom, height, width, angle)
    if element.tag == "ellipse":
        cx, cy, rx, ry = numbers("cx", "cy", "rx", "ry")
        return lambda height, width: ellipse(cx, cy, rx, ry, height, width, angle)
    left, top, across, down = (int(value) for value in numbers("left", "top", "width", "height"))
    lengths = run_lengths([int(count) for count in given["rle"].split(",")], across * down)
    if across < 1 or down < 1:
        raise ValueError("a mask has no size")

    def draw(height: int, width: int) -> Mask:
        if across > width or down > height:
            raise ValueError(f"a mask of {across}x{down} pixels is larger than the photo of {width}x{height}")
        return placed(runs(lengths).reshape(down, across), top, left, height, width)

    return draw
