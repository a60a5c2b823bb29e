#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93 (pillow 13.0.0, imagecodecs 2026.3.6, numpy 2.4.6): a JPEG 2000 file whose header says
# sYCC (enumerated colour space 18) comes out in other colours than Pillow and OpenJPEG's own conversion give it.
#
# sYCC is YCbCr of full range: red is Y + 1.402 (Cr - 128), blue Y + 1.772 (Cb - 128). OpenCV takes the factors of
# COLOR_YUV2BGR, 1.140 and 2.032, which belong to other numbers, and says nothing. Pillow writes such files from its mode
# YCbCr; RGB that was made YCbCr before it was saved comes back right from both others, within rounding.
#
# Output seen (RGB 200, 120, 60 is Y, Cb, Cr 137, 84, 172):
#   enumerated colour space: 18
#   Pillow: [198, 120, 59]
#   imagecodecs: [198, 121, 60]
#   OpenCV: [187, 129, 48]
#   COLOR_YUV2RGB of Y, Cb, Cr: [187, 129, 48]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 pillow==13.0.0 imagecodecs==2026.3.6 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import cv2
import imagecodecs
import numpy as np
from PIL import Image

stored = Image.new("RGB", (64, 64), (200, 120, 60)).convert("YCbCr")
file = io.BytesIO()
stored.save(file, "JPEG2000")  # lossless unless said otherwise
data = file.getvalue()
space = int.from_bytes(data[data.index(b"colr") + 7 :][:4], "big")

pillow = list(Image.open(io.BytesIO(data)).convert("RGB").getpixel((5, 5)))
codecs = imagecodecs.jpeg2k_decode(data)[5, 5].tolist()
opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[5, 5, ::-1].tolist()
other = cv2.cvtColor(np.asarray(stored), cv2.COLOR_YUV2RGB)[5, 5].tolist()
print(f"enumerated colour space: {space}")
print(f"Pillow: {pillow}")
print(f"imagecodecs: {codecs}")
print(f"OpenCV: {opencv}")
print(f"COLOR_YUV2RGB of Y, Cb, Cr: {other}")


def off(found):
    return max(abs(a - b) for a, b in zip(found, (200, 120, 60)))


sys.exit(0 if space == 18 and off(pillow) <= 2 and off(codecs) <= 2 and off(opencv) >= 9 and opencv == other else 1)
PY
