#!/usr/bin/env bash
# pillow 13.0.0 (imagecodecs 2026.3.6, opencv-python-headless 5.0.0.93, numpy 2.4.6): grey JPEG 2000 of 4, 10 or 12 bits
# is shifted up to 8 or 16 bits, so that white is neither 2**n - 1, as stored, nor full scale.
#
# White of 4 bits is 240 and not 255, of 10 bits 65472, of 12 bits 65520 and not 65535: divided by full scale it is 0.941,
# 0.9990 and 0.9998. How many bits the file has cannot be read off the picture, whose mode is L or I;16. OpenCV (which
# refuses fewer than 8 bits) and imagecodecs give the values as stored: two readers, a factor of 16 for 12 bits.
#
# Output seen:
#   4 bits: Pillow L, white 240; imagecodecs 15; OpenCV none
#   10 bits: Pillow I;16, white 65472; imagecodecs 1023; OpenCV 1023
#   12 bits: Pillow I;16, white 65520; imagecodecs 4095; OpenCV 4095
#   16 bits: Pillow I;16, white 65535; imagecodecs 65535; OpenCV 65535
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pillow==13.0.0 imagecodecs==2026.3.6 opencv-python-headless==5.0.0.93 numpy==2.4.6
OPENCV_LOG_LEVEL=SILENT "$folder/venv/bin/python" - <<'PY'
import io
import sys

import cv2
import imagecodecs
import numpy as np
from PIL import Image

found = []
for bits in (4, 10, 12, 16):
    white = (1 << bits) - 1
    picture = np.full((64, 64), white, np.uint8 if bits <= 8 else np.uint16)
    picture[:32] = 0
    data = imagecodecs.jpeg2k_encode(picture, level=0, bitspersample=bits, codecformat="jp2")
    image = Image.open(io.BytesIO(data))
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    row = (int(np.asarray(image).max()), int(imagecodecs.jpeg2k_decode(data).max()))
    shown = "none" if opencv is None else int(opencv.max())
    print(f"{bits} bits: Pillow {image.mode}, white {row[0]}; imagecodecs {row[1]}; OpenCV {shown}")
    found.append((*row, shown))
wanted = [(240, 15, "none"), (65472, 1023, 1023), (65520, 4095, 4095), (65535, 65535, 65535)]
sys.exit(0 if found == wanted else 1)
PY
