"""Why a part got its verdict, as a function: what `flawmap explain` does (deploy/explain.py)."""

from __future__ import annotations

from pathlib import Path

from flawmap.analysis.opening import Named, inspector_of, out_of, refuse_file
from flawmap.bundle import Bundle
from flawmap.data.arrays import ImageLike
from flawmap.deploy import explain as steps
from flawmap.deploy.explain import SUFFIXES, Explanation
from flawmap.deploy.inspector import Inspector
from flawmap.errors import ConfigError


def explain(
    bundle: Bundle | Inspector | Named,
    image: ImageLike,
    out: Named | None = None,
    *,
    overwrite: bool = False,
    device: str = "auto",
    order: str | None = None,
) -> Explanation:
    """Show what the network saw in one image, step by step.

    image: as `Inspector.inspect` takes it; order: of the channels of an array or tensor, as there

    out: a .png or .jpg, one picture, or .html, an evidence sheet of one page. Raises ConfigError for another suffix,
    for `out` in the way and an exported runtime, ImageError for a file that cannot be used.
    """
    file = out_of(out)
    if file is not None:
        if file.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"--out {file}: expected a name that ends with {', '.join(SUFFIXES)}")
        refuse_file(file, overwrite)
    inspector = inspector_of(bundle, device)
    found = steps.explain(inspector, image, Path(inspector.source) if inspector.source else None, order)
    if file is not None:
        (steps.write_sheet if file.suffix.lower() == ".html" else steps.write_picture)(found, file)
    return found
