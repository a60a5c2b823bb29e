"""Training the discrete model: resume after a real kill, several processes, quality figures."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from flawmap.config import Recipe, load_recipe
from flawmap.data.images import write_image
from flawmap.data.surfaces import SURFACES, draw_good
from flawmap.model.discrete import DiscreteModel
from flawmap.train.loop import load_state
from flawmap.train.pretrain import at_least, learning_rate, pretrain, quality, split

TINY = [
    "model.codes=32", "model.code_length=8", "model.discrete_width=16", "model.discrete_hidden=8",
    "pretrain.steps=60", "pretrain.batch=4", "pretrain.crop=32", "pretrain.warmup=5", "pretrain.continuous=10",
    "pretrain.check_every=30", "run.threads=1", "run.checkpoint_seconds=0",
]  # fmt: skip

PROGRAM = """
import sys
from pathlib import Path
from flawmap.config import load_recipe
from flawmap.train.pretrain import pretrain
folder = Path(sys.argv[2])
pretrain(sorted(Path(sys.argv[1]).iterdir()), load_recipe(None, sys.argv[3:]), folder, resume=True, quiet=True)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(12):
        image = draw_good(SURFACES[index % len(SURFACES)], 64, np.random.default_rng(index))
        write_image(folder / f"{index:02}.png", (image * 255).astype(np.uint8))
    return folder


def weights_sha(checkpoint: Path) -> str:
    tensors, _ = load_state(checkpoint)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def start(photos: Path, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(photos), str(folder), *TINY])


def test_killed_pretraining_resumes_to_the_same_weights(photos: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(photos, whole).wait(120) == 0
    process = start(photos, killed)
    checkpoint, deadline = killed / "pretrain.safetensors", time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists() and 15 <= load_state(checkpoint)[1]["step"] < 55:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert load_state(checkpoint)[1]["step"] < 60
    assert start(photos, killed).wait(120) == 0
    assert weights_sha(checkpoint) == weights_sha(whole / "pretrain.safetensors")
    records = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records if "image" in record]
    assert steps == [20, 40, 60], "a line a step, none twice"


def test_two_processes_learn_one_codebook(photos: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(photos), str(tmp_path), *TINY],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in (0, 1)
    ]
    assert [worker.wait(180) for worker in workers] == [0, 0]
    first, second = (load_state(tmp_path / name)[0] for name in ("pretrain.safetensors", "pretrain.1.safetensors"))
    for name in first:
        if name != "generator":
            assert torch.equal(first[name], second[name]), f"{name} differs between the processes"
    assert not torch.equal(first["generator"], second["generator"]), "each process draws crops of its own"


def test_training_lowers_the_error_on_images_held_out(photos: Path, tmp_path: Path) -> None:
    recipe = load_recipe(None, [*TINY, "pretrain.steps=150", "pretrain.rate=2e-3", "run.checkpoint_seconds=1000"])
    paths = sorted(photos.iterdir())
    model = pretrain(paths, recipe, tmp_path, quiet=True)
    torch.manual_seed(0)
    untrained = DiscreteModel(32, 8, 16, 8)
    held_out = split(paths, recipe.pretrain.held_out, recipe.run.seed)[1]
    trained, before = (quality(m, held_out, torch.device("cpu"))["psnr"] for m in (model, untrained))
    assert trained > before + 5
    assert trained > 15


def test_normalised_codes_draw_the_same_image() -> None:
    torch.manual_seed(0)
    model, image = DiscreteModel(32, 8, 16, 8).eval(), torch.rand(1, 3, 64, 64)
    model.coarse_codebook.vectors.mul_(0.01)
    model.fine_codebook.vectors.mul_(7)
    before = model.encode(image)
    drawn = model.decode(before.coarse_codes, before.fine_codes)
    model.normalise_codes()
    after = model.encode(image)
    assert torch.allclose(model.fine_codebook.vectors.std(), torch.ones(()), atol=1e-4)
    assert (after.fine_indices == before.fine_indices).float().mean() > 0.99
    assert torch.allclose(model.decode(after.coarse_codes, after.fine_codes), drawn, atol=1e-4)


def test_held_out_images_are_not_trained_on(photos: Path) -> None:
    paths = sorted(photos.iterdir())
    train, held_out = split(paths, 0.3, seed=0)
    assert sorted(train + held_out) == paths
    assert len(held_out) == 4
    assert split(list(reversed(paths)), 0.3, seed=0) == (train, held_out), "the order of listing does not matter"
    assert split(paths, 0.3, seed=1)[1] != held_out


def test_small_images_are_reflected_to_the_size_of_a_crop() -> None:
    image = np.random.default_rng(0).random((5, 3, 3), dtype=np.float32)
    grown = at_least(image, 16)
    assert grown.shape[0] >= 16
    assert grown.shape[1] >= 16
    assert np.array_equal(grown[:5, :3], image)


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [learning_rate(step, 100, 10, 1.0) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_paper_recipe_is_the_paper_schedule() -> None:
    paper = load_recipe("paper")
    assert paper.model == Recipe().model
    assert (paper.detect.steps, paper.detect.batch, paper.detect.rate, paper.detect.crop) == (100_000, 8, 2e-4, 0)
    assert (paper.detect.drop_at, paper.detect.drop) == (0.8, 0.1)
    assert (paper.refine.steps, paper.refine.rate) == (50_000, 2e-4)
    assert (paper.image.height, paper.image.width) == (256, 256)
