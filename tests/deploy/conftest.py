"""A bundle that tells parts apart, for tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deploy_helpers import TINY

from flawmap.config import load_recipe
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.model.discrete import DiscreteModel
from flawmap.train.run import train


@pytest.fixture(scope="session")
def metal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn parts of 64x64: 12 good ones to learn from; 4 good and 6 defective ones, one a kind, to test with."""
    folder = tmp_path_factory.mktemp("drawn") / "metal"
    write_sample_parts(folder, SURFACES[0], size=64, train=12, good=4, bad=6, seed=0)
    return folder


@pytest.fixture(scope="session")
def trained(metal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle trained on them for a second: what is unlike the features of the good ones tells the defective ones."""
    settings = ["refine.steps=0", "model.norm=batch", 'model.familiarity=["encoder", "local"]', "anomalies.place=codes"]
    recipe = load_recipe(TINY, [*settings, "threshold.calibration=cross-fitted", "model.discrete_width=16"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(width=16, hidden=4, codes=32, code_length=8)
    out = tmp_path_factory.mktemp("trained") / "metal.bundle"
    train(read_layout(metal), recipe, out, general=general, quiet=True)
    return out
