#!/usr/bin/env bash
# pycocotools 2.0.11 (numpy 2.4.6, opencv-python-headless 5.0.0.93): a scratch drawn as a polygon less than a pixel wide has
# 40 pixels or none, by where in the pixel it lies; and a square is smaller than what OpenCV fills by its outline.
#
# A polygon 40 pixels long and 0.5 wide marks 40 pixels at two of four positions, and nothing at the others, without a word:
# such a part counts as good when pixels are measured. A square from 10 to 20 has 100 pixels by COCO's rule and 121 by
# OpenCV's fillPoly, which takes in its outline: masks made from the same labels by the two differ all along the edge.
#
# Output seen:
#   pixels of a polygon of 40 × 0.5 at offsets 0, 0.25, 0.5, 0.75: [40, 40, 0, 0]
#   of 40 × 0.2: [0, 0, 0, 0]
#   square from 10 to 20: pycocotools 100, OpenCV 121
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pycocotools==2.0.11 opencv-python-headless==5.0.0.93 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import cv2
import numpy as np
from pycocotools import mask


def pixels(*corners):
    """How many pixels of 64 × 64 a polygon marks."""
    flat = [float(number) for corner in corners for number in corner]
    return int(mask.area(mask.merge(mask.frPyObjects([flat], 64, 64))))


def box(left, top, width, height):
    right, bottom = left + width, top + height
    return (left, top), (right, top), (right, bottom), (left, bottom)


offsets = (0, 0.25, 0.5, 0.75)
half = [pixels(*box(10 + by, 10 + by, 40, 0.5)) for by in offsets]
fifth = [pixels(*box(10 + by, 10 + by, 40, 0.2)) for by in offsets]
square = pixels(*box(10, 10, 10, 10))
filled = int(cv2.fillPoly(np.zeros((64, 64), np.uint8), [np.array(box(10, 10, 10, 10))], 1).sum())
print(f"pixels of a polygon of 40 × 0.5 at offsets {', '.join(map(str, offsets))}: {half}")
print(f"of 40 × 0.2: {fifth}")
print(f"square from 10 to 20: pycocotools {square}, OpenCV {filled}")
sys.exit(0 if half == [40, 40, 0, 0] and fifth == [0, 0, 0, 0] and (square, filled) == (100, 121) else 1)
PY
