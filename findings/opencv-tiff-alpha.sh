#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93 (numpy 2.4.6, tifffile 2026.3.3): IMREAD_UNCHANGED of a TIFF with unassociated alpha
# (ExtraSamples 2) returns colours multiplied by alpha with 8 bits, but as stored with 16; and imwrite leaves ExtraSamples
# out of files with four channels.
#
# With 8 bits the alpha channel is returned as well, so that whoever lays the picture over a background multiplies twice.
# A file of four channels that OpenCV wrote does not say what its fourth is.
#
# Output seen (colours 200 of 255, alpha 50 of 255; the same with 16 bits: 51400, 12850):
#   8 bits: [39, 39, 39, 50]
#   16 bits: [51400, 51400, 51400, 12850]
#   ExtraSamples of a file with 4 channels that OpenCV wrote: ()
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 tifffile==2026.3.3 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import cv2
import numpy as np
import tifffile


def read(factor, dtype):
    """The first pixel of a picture of 200 with alpha 50, both times `factor`, as OpenCV reads it."""
    file = io.BytesIO()
    picture = np.full((4, 4, 4), 200 * factor, dtype)
    picture[:, :, 3] = 50 * factor
    tifffile.imwrite(file, picture, photometric="rgb", extrasamples=["unassalpha"])
    return cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)[0, 0].tolist()


eight, sixteen = read(1, np.uint8), read(257, np.uint16)
own = cv2.imencode(".tif", np.full((4, 4, 4), 200, np.uint8))[1].tobytes()
extra = tuple(tifffile.TiffFile(io.BytesIO(own)).pages[0].extrasamples)
print(f"8 bits: {eight}")
print(f"16 bits: {sixteen}")
print(f"ExtraSamples of a file with 4 channels that OpenCV wrote: {extra}")
sys.exit(0 if eight == [39, 39, 39, 50] and sixteen == [51400, 51400, 51400, 12850] and extra == () else 1)
PY
