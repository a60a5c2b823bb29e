"""OpenCV, with limits of its own out of the way: ours are checked first, and name the file. Imported here alone."""

from __future__ import annotations

import os

# OpenCV reads these at import.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 34))
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_WIDTH", str(1 << 30))  # strips of a TIFF pass as rows (tiff_pixels)
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_HEIGHT", str(1 << 30))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what fails is said once, by us

import cv2 as cv2

if os.environ["OPENCV_LOG_LEVEL"] == "SILENT":  # imported before, it did not read that
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
