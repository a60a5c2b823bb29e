"""flawmap: learns from images of good parts alone, then finds and outlines defects on new ones.

The public names are loaded on first use (PEP 562), so that `import flawmap` and `flawmap --help` never import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flawmap.bundle import Bundle, load_bundle, load_general, save_bundle, save_general
    from flawmap.config import Recipe, load_recipe, shipped_recipes
    from flawmap.data.layouts import Listing, Sample, read_layout
    from flawmap.deploy.evaluation import evaluate
    from flawmap.deploy.inspector import Inspection, Inspector, load
    from flawmap.errors import (
        BundleError,
        CheckpointError,
        ConfigError,
        DataError,
        DisagreementError,
        FlawmapError,
        ImageError,
        LayoutError,
        StationAwayError,
        StationError,
        TrainingError,
    )
    from flawmap.measure.scores import Region
    from flawmap.measure.threshold import Threshold
    from flawmap.station.client import Client
    from flawmap.train.pretrain import pretrain
    from flawmap.train.run import train as train_bundle

__version__ = "0.1.0"

_HOME = {
    "Bundle": "bundle",
    "BundleError": "errors",
    "CheckpointError": "errors",
    "Client": "station.client",
    "ConfigError": "errors",
    "DataError": "errors",
    "DisagreementError": "errors",
    "FlawmapError": "errors",
    "ImageError": "errors",
    "Inspection": "deploy.inspector",
    "Inspector": "deploy.inspector",
    "LayoutError": "errors",
    "Listing": "data.layouts",
    "Recipe": "config",
    "Region": "measure.scores",
    "Sample": "data.layouts",
    "StationAwayError": "errors",
    "StationError": "errors",
    "Threshold": "measure.threshold",
    "TrainingError": "errors",
    "evaluate": "deploy.evaluation",
    "load": "deploy.inspector",
    "load_bundle": "bundle",
    "load_general": "bundle",
    "load_recipe": "config",
    "pretrain": "train.pretrain",
    "read_layout": "data.layouts",
    "save_bundle": "bundle",
    "save_general": "bundle",
    "shipped_recipes": "config",
    "train_bundle": "train.run:train",  # `flawmap.train` is the package
}

__all__ = [
    "Bundle",
    "BundleError",
    "CheckpointError",
    "Client",
    "ConfigError",
    "DataError",
    "DisagreementError",
    "FlawmapError",
    "ImageError",
    "Inspection",
    "Inspector",
    "LayoutError",
    "Listing",
    "Recipe",
    "Region",
    "Sample",
    "StationAwayError",
    "StationError",
    "Threshold",
    "TrainingError",
    "__version__",
    "evaluate",
    "load",
    "load_bundle",
    "load_general",
    "load_recipe",
    "pretrain",
    "read_layout",
    "save_bundle",
    "save_general",
    "shipped_recipes",
    "train_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(f"flawmap.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
