"""Why a part got its verdict, as a function: what `flawmap explain` does (deploy/explain.py)."""

from __future__ import annotations

from pathlib import Path

from flawmap.analysis.opening import Named, inspector_of, refuse_file
from flawmap.deploy import explain as steps
from flawmap.deploy.explain import SUFFIXES, Explanation
from flawmap.deploy.inspector import Inspector
from flawmap.errors import ConfigError


def explain(
    bundle: Inspector | Named,
    image: Named,
    out: Named | None = None,
    *,
    overwrite: bool = False,
    device: str = "auto",
) -> Explanation:
    """Show what the network saw in one image file, step by step.

    out: a .png or .jpg, one picture, or .html, an evidence sheet of one page. Raises ConfigError for another suffix,
    for `out` in the way and an exported runtime, ImageError for a file that cannot be used.
    """
    file = None if out is None else Path(out)
    if file is not None:
        if file.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"--out {file}: expected a name that ends with {', '.join(SUFFIXES)}")
        refuse_file(file, overwrite)
    inspector = inspector_of(bundle, device)
    found = steps.explain(inspector, Path(image), Path(inspector.source) if inspector.source else None)
    if file is not None:
        (steps.write_sheet if file.suffix.lower() == ".html" else steps.write_picture)(found, file)
    return found
