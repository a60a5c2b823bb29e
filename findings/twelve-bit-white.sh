#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93, pillow 13.0.0, tifffile 2026.3.3, imagecodecs 2026.3.6 (numpy 2.4.6): full white of a
# 12-bit camera is 4095, 65520 or 65535, by the library that reads the file.
#
# A PGM with a largest value of 4095 is stretched to 65535 by Pillow and left as it is by OpenCV; a TIFF of packed 12-bit
# samples is shifted by four bits by OpenCV, which makes 65520, and left as it is by Pillow and tifffile. So a program
# that divides by 65535 sees the same scene at 1/16 of its brightness, depending on file form and reader.
#
# Output seen:
#   PGM, maxval 4095: OpenCV 4095, Pillow 65535
#   TIFF, 12 bits packed: OpenCV 65520, Pillow 4095, tifffile 4095
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import cv2
import numpy as np
import tifffile
from PIL import Image

pgm = b"P5\n4 2\n4095\n" + np.full(8, 4095, ">u2").tobytes()
file = io.BytesIO()
tifffile.imwrite(file, np.full((4, 8), 4095, np.uint16), bitspersample=12, photometric="minisblack")
packed = file.getvalue()


def opencv(data):
    return int(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[0, 0])


def pillow(data):
    return int(np.asarray(Image.open(io.BytesIO(data)))[0, 0])


grey = opencv(pgm), pillow(pgm)
tiff = opencv(packed), pillow(packed), int(tifffile.imread(io.BytesIO(packed))[0, 0])
print(f"PGM, maxval 4095: OpenCV {grey[0]}, Pillow {grey[1]}")
print(f"TIFF, 12 bits packed: OpenCV {tiff[0]}, Pillow {tiff[1]}, tifffile {tiff[2]}")
sys.exit(0 if grey == (4095, 65535) and tiff == (65520, 4095, 4095) else 1)
PY
