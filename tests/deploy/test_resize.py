"""The resize inside an artefact against OpenCV's, which flawmap uses itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flawmap.data.images import resize_image

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from flawmap.deploy.resize import resize_graph  # noqa: E402

SIZES = [(64, 48), (128, 96), (192, 144), (65, 49), (100, 333), (64, 480), (640, 48), (31, 17), (64, 20), (1, 1),
         (501, 1999), (1600, 7), (33, 500)]  # fmt: skip


def session(area: bool, one_image: bool = True, size: tuple[int, int] = (64, 48)) -> Any:
    model = resize_graph(*size, area, one_image, 18)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shrink", ["linear", "area"])
def test_an_artefact_resizes_as_opencv_does(shrink: Any) -> None:
    random = np.random.default_rng(0)
    opened = session(shrink == "area")
    for height, width in SIZES:
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        wanted = resize_image(image.astype(np.float32) / np.float32(255), 64, 48, shrink)
        (found,) = opened.run(None, {"image": image[None]})
        assert np.abs(found[0].transpose(1, 2, 0) - wanted).max() < 2e-6, (height, width)


def test_an_image_of_the_networks_size_is_not_touched() -> None:
    image = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(64, 48, 3).astype(np.uint8)
    for area in (False, True):
        (found,) = session(area).run(None, {"image": image[None]})
        assert np.array_equal(found[0].transpose(1, 2, 0), image.astype(np.float32) / np.float32(255))


def test_several_images_at_once_are_resized_each_on_its_own() -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 90, 70, 3), dtype=np.uint8)
    opened = session(True, one_image=False)
    together = opened.run(None, {"image": images})[0]
    for image, found in zip(images, together, strict=True):
        assert np.array_equal(opened.run(None, {"image": image[None]})[0][0], found)
