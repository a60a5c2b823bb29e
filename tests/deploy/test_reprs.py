"""What Python prints of a result is a line, whatever arrays it holds."""

from __future__ import annotations

from pathlib import Path

import flawmap


def test_results_that_hold_arrays_print_as_one_line(trained: Path, metal: Path) -> None:
    good = metal / "test" / "good"
    photo = sorted(good.iterdir())[0]
    bundle = flawmap.load_bundle(trained)
    why = flawmap.explain(trained, photo, device="cpu")
    check = flawmap.drift_check(bundle, good, device="cpu")
    limits = flawmap.detection_limits(trained, photo, sizes=(4.0,), contrasts=(0.4,), device="cpu")
    every = [
        why, *why.panels, bundle, bundle.photos, bundle.evidence, check, *check.photos, limits,
        flawmap.read_layout(metal), flawmap.load(trained, "cpu"), flawmap.load(trained, "cpu").inspect(photo),
    ]  # fmt: skip
    for one in every:
        assert len(repr(one)) < 300 and "\n" not in repr(one) and "array(" not in repr(one), type(one)
    assert repr(why).startswith(f"<Explanation of {photo.name}: ") and ", score 0." in repr(why)
    assert repr(why.panels[0]) in repr(list(why.panels)) and "pixels>" in repr(why.panels[0])
    assert repr(check).startswith("<DriftCheck: ") and str(check) in repr(check)
    assert repr(bundle).startswith("<Bundle at ")
