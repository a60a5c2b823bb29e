#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93, pillow 13.0.0 (numpy 2.4.6, tifffile 2026.3.3): a colour TIFF of 16 bits whose channels
# lie in planes of their own (PlanarConfiguration 2) comes out with wrong pixels in both, and neither says so.
#
# Cameras with three sensors and filter wheels store their channels like that. The picture here has one colour all over:
# (10000, 30000, 50000) in red, green, blue. OpenCV gives other numbers, not even alike in all pixels; Pillow gives 8 bits,
# of which the first pixels are the low bytes. The same picture with 8 bits is right in both. tifffile reads both rightly.
#
# Output seen:
#   OpenCV, 16 bits: right in 0 of 80 pixels
#   Pillow, 16 bits: within 1 of the high byte in 40 of 80 pixels
#   OpenCV, 8 bits: right in 80 of 80 pixels
#   Pillow, 8 bits: right in 80 of 80 pixels
#   tifffile, 16 bits: right in 80 of 80 pixels
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import cv2
import numpy as np
import tifffile
from PIL import Image

deep = np.broadcast_to(np.array([10000, 30000, 50000], np.uint16), (8, 10, 3))
flat = (deep >> 8).astype(np.uint8)


def written(picture):
    """The bytes of a TIFF with each channel in a plane of its own."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.moveaxis(picture, -1, 0), photometric="rgb", planarconfig="separate")
    return file.getvalue()


def opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[:, :, ::-1]


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def right(found, wanted, by=0):
    """In how many pixels all channels are as stored, give or take `by`."""
    return int((np.abs(found.astype(int) - wanted) <= by).all(-1).sum())


counts = [
    right(opencv(written(deep)), deep),
    right(pillow(written(deep)), deep >> 8, 1),
    right(opencv(written(flat)), flat),
    right(pillow(written(flat)), flat),
    right(np.moveaxis(tifffile.imread(io.BytesIO(written(deep))), 0, -1), deep),
]
print(f"OpenCV, 16 bits: right in {counts[0]} of 80 pixels")
print(f"Pillow, 16 bits: within 1 of the high byte in {counts[1]} of 80 pixels")
print(f"OpenCV, 8 bits: right in {counts[2]} of 80 pixels")
print(f"Pillow, 8 bits: right in {counts[3]} of 80 pixels")
print(f"tifffile, 16 bits: right in {counts[4]} of 80 pixels")
sys.exit(0 if counts[0] < 80 and counts[1] < 80 and counts[2:] == [80, 80, 80] else 1)
PY
