#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93, pillow 13.0.0 (numpy 2.4.6, tifffile 2026.3.3): a grey TIFF that counts from white
# (PhotometricInterpretation 0, as film digitisers write) is turned to black-is-0 with 8 bits, but not with 16.
#
# With 16 bits both readers return the numbers as stored, so that the picture is a negative of the same one with 8 bits;
# Pillow does not take a big-endian file of this kind for an image at all.
#
# Output seen (stored: 10 of 255, 1000 of 65535):
#   OpenCV 8 bits: 245; 16 bits: 1000; 16 bits, big-endian: 1000
#   Pillow 8 bits: 245; 16 bits: 1000; 16 bits, big-endian: UnidentifiedImageError
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


def written(value, dtype, order):
    file = io.BytesIO()
    tifffile.imwrite(file, np.full((6, 6), value, dtype), photometric="miniswhite", byteorder=order)
    return file.getvalue()


def opencv(data):
    return int(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[0, 0])


def pillow(data):
    try:
        return int(np.asarray(Image.open(io.BytesIO(data)))[0, 0])
    except Exception as problem:
        return type(problem).__name__


files = [written(10, np.uint8, "<"), written(1000, np.uint16, "<"), written(1000, np.uint16, ">")]
found = {name: [read(file) for file in files] for name, read in (("OpenCV", opencv), ("Pillow", pillow))}
for name, (eight, sixteen, big) in found.items():
    print(f"{name} 8 bits: {eight}; 16 bits: {sixteen}; 16 bits, big-endian: {big}")
wanted = {"OpenCV": [245, 1000, 1000], "Pillow": [245, 1000, "UnidentifiedImageError"]}
sys.exit(0 if found == wanted else 1)
PY
