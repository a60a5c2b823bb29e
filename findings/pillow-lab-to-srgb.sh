#!/usr/bin/env bash
# pillow 13.0.0 (its ImageCms with LittleCMS; numpy 2.4.6): 8-bit CIELAB to sRGB is up to 0.118 of full scale (30 of 255)
# away from the formula within the colours that sRGB has, unless ImageCms.Flags.NOOPTIMIZE is given: then 0.003.
#
# By default LittleCMS replaces the transform by a table between whose points it interpolates; near the edge of sRGB, as
# in cyan and blue, that is coarse. Flags.HIGHRESPRECALC leaves 0.086. The mean difference is 0.005. It matters to whoever
# compares colours in numbers; to the eye the pictures look alike.
#
# The formula: CIE 15 (CIELAB under D50), Bradford's adaptation to D65, IEC 61966-2-1; every fifth L, a and b.
#
# Output seen:
#   17004 colours within sRGB
#   default: at most 0.118, on average 0.0052
#   HIGHRESPRECALC: at most 0.086, on average 0.0032
#   NOOPTIMIZE: at most 0.003, on average 0.0015
#   the worst, L a b [215, -43, -23] as stored: [33, 234, 252], by the formula [3, 234, 252]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
from PIL import Image, ImageCms

TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
light, a, b = (
    axis.ravel()
    for axis in np.meshgrid(np.arange(0, 256, 5), np.arange(-128, 128, 5), np.arange(-128, 128, 5), indexing="ij")
)
y = (light * 100 / 255 + 16) / 116
root = np.stack([y + a / 500, y, y - b / 200], axis=1)
xyz = np.where(root > 6 / 29, root**3, (root - 4 / 29) * 108 / 841) * np.array([0.9642, 1.0, 0.8249])
linear = xyz @ TO_SRGB.T
within = ((linear >= 0) & (linear <= 1)).all(1)
linear = linear.clip(0, 1)
formula = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)[within]
stored = np.stack([light, a & 255, b & 255], axis=1).astype(np.uint8)[within]
picture = Image.frombytes("LAB", (len(stored), 1), stored.tobytes())


def by_littlecms(flags):
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB", flags=flags
    )
    return np.asarray(ImageCms.applyTransform(picture, transform))[0]


print(f"{len(stored)} colours within sRGB")
off = {}
for name, flags in (
    ("default", ImageCms.Flags.NONE),
    ("HIGHRESPRECALC", ImageCms.Flags.HIGHRESPRECALC),
    ("NOOPTIMIZE", ImageCms.Flags.NOOPTIMIZE),
):
    off[name] = np.abs(by_littlecms(flags) / 255 - formula).max(1)
    print(f"{name}: at most {off[name].max():.3f}, on average {off[name].mean():.4f}")
at = int(off["default"].argmax())
lab = [int(axis[within][at]) for axis in (light, a, b)]
shown, true = by_littlecms(ImageCms.Flags.NONE)[at].tolist(), np.rint(formula[at] * 255).astype(int).tolist()
print(f"the worst, L a b {lab} as stored: {shown}, by the formula {true}")
sys.exit(0 if off["default"].max() > 0.1 and off["NOOPTIMIZE"].max() < 0.005 else 1)
PY
