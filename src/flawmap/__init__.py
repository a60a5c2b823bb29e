"""flawmap: learns from images of good parts alone, then finds and outlines defects on new ones.

The public names are loaded on first use (PEP 562), so that `import flawmap` and `flawmap --help` never import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flawmap.analysis.detection_limits import DetectionLimits, detection_limits
    from flawmap.analysis.drift_check import DriftCheck, drift_check
    from flawmap.analysis.explain import explain
    from flawmap.analysis.outliers import outliers
    from flawmap.analysis.repeatability import repeatability
    from flawmap.bundle import Bundle, load_bundle, load_general, save_bundle, save_general
    from flawmap.config import Recipe, load_recipe, shipped_recipes
    from flawmap.data.labels.read import write_masks
    from flawmap.data.layouts import Listing, Sample, read_layout
    from flawmap.deploy.evaluation import evaluate
    from flawmap.deploy.explain import Explanation
    from flawmap.deploy.export import export
    from flawmap.deploy.export import export as export_bundle
    from flawmap.deploy.inspector import Inspection, Inspector, load
    from flawmap.deploy.repeat import Repeatability
    from flawmap.deploy.suspects import Suspect
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
    "DetectionLimits": "analysis.detection_limits",
    "DisagreementError": "errors",
    "DriftCheck": "analysis.drift_check",
    "Explanation": "deploy.explain",
    "FlawmapError": "errors",
    "ImageError": "errors",
    "Inspection": "deploy.inspector",
    "Inspector": "deploy.inspector",
    "LayoutError": "errors",
    "Listing": "data.layouts",
    "Recipe": "config",
    "Region": "measure.scores",
    "Repeatability": "deploy.repeat",
    "Sample": "data.layouts",
    "StationAwayError": "errors",
    "StationError": "errors",
    "Suspect": "deploy.suspects",
    "Threshold": "measure.threshold",
    "TrainingError": "errors",
    "detection_limits": "analysis.detection_limits",
    "drift_check": "analysis.drift_check",
    "evaluate": "deploy.evaluation",
    "explain": "analysis.explain",
    "export": "deploy.export",
    "export_bundle": "deploy.export:export",  # for the day `flawmap.export` is a package
    "load": "deploy.inspector",
    "load_bundle": "bundle",
    "load_general": "bundle",
    "load_recipe": "config",
    "outliers": "analysis.outliers",
    "pretrain": "train.pretrain",
    "read_layout": "data.layouts",
    "repeatability": "analysis.repeatability",
    "save_bundle": "bundle",
    "save_general": "bundle",
    "shipped_recipes": "config",
    "train_bundle": "train.run:train",  # `flawmap.train` is the package
    "write_masks": "data.labels.read",
}

__all__ = [
    "Bundle",
    "BundleError",
    "CheckpointError",
    "Client",
    "ConfigError",
    "DataError",
    "DetectionLimits",
    "DisagreementError",
    "DriftCheck",
    "Explanation",
    "FlawmapError",
    "ImageError",
    "Inspection",
    "Inspector",
    "LayoutError",
    "Listing",
    "Recipe",
    "Region",
    "Repeatability",
    "Sample",
    "StationAwayError",
    "StationError",
    "Suspect",
    "Threshold",
    "TrainingError",
    "__version__",
    "detection_limits",
    "drift_check",
    "evaluate",
    "explain",
    "export",
    "export_bundle",
    "load",
    "load_bundle",
    "load_general",
    "load_recipe",
    "outliers",
    "pretrain",
    "read_layout",
    "repeatability",
    "save_bundle",
    "save_general",
    "shipped_recipes",
    "train_bundle",
    "write_masks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(f"flawmap.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
