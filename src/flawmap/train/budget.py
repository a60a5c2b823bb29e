"""How many steps fit into the minutes that a user gives: some are tried on this machine, with this recipe and part."""

from __future__ import annotations

import copy
import json
import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from flawmap.config import FewSettings, Recipe
from flawmap.data.real import RealDefects
from flawmap.errors import CheckpointError, ConfigError, TrainingError, first_line
from flawmap.model.dsr import DSR
from flawmap.model.familiarity import PRETRAINED
from flawmap.train.detect import Images, train_detection
from flawmap.train.familiar import PAINTED, PHOTOS, REMEMBERED_PHOTOS
from flawmap.train.loop import Machine, write_atomically
from flawmap.train.sources import GoodParts

PLAN = "plan.json"
# Steps before the clock runs, and by the clock at most and at least: of these as large a share settles as of all.
WARM, TRIED, TRIED_LEAST = 2, 10, 3
TRIED_S = 6.0  # seconds that these take, about: whoever gave too few minutes should not wait for minutes to hear it
TRIED_PHOTOS = 16  # that are read for it; how long all take to be read follows from these
LOOKS = 3  # photos that are inspected by the clock
FEWEST = 20  # steps that are a training at all
SLACK = 0.95  # of the time is planned: machines do not keep their speed


class Plan(NamedTuple):
    """minutes: asked for; steps: of detection that fit; step_s, after_s: seconds of one, and of what comes after."""

    minutes: float
    steps: int
    step_s: float
    after_s: float


def planned(folder: Path, minutes: float | None, begun: bool) -> Plan | None:
    """The plan of the unfinished training in `folder`; None where there is none.

    begun: whether it has a checkpoint. Raises TrainingError when it goes by other minutes than those asked for.
    """
    file = folder / PLAN
    if not file.exists():
        if begun and minutes is not None:
            raise TrainingError(f"{folder} was started without --minutes; resume without them")
        return None
    try:
        plan = Plan(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as problem:
        raise CheckpointError(
            f"{file} is not readable ({first_line(problem)}); delete {folder} to start anew"
        ) from problem
    if minutes is not None and minutes != plan.minutes:
        raise TrainingError(f"{folder} was started with --minutes {plan.minutes:g}; resume with the same")
    return plan


def plan_steps(
    minutes: float,
    spent_s: float,
    model: DSR,
    images: Images,
    parts: GoodParts,
    recipe: Recipe,
    machine: Machine,
    folder: Path,
    *,
    photos: int,
    real: RealDefects | None,
    variation: FewSettings,
    to_read_s: float = 0.0,
) -> Plan:
    """The plan for a training of `minutes`, of which `spent_s` seconds are gone, kept in `folder`.

    A copy of `model` is trained for some steps, and inspects some of `parts`; `model` stays as it is. `photos`: how
    many good ones there are; `to_read_s`: seconds that those not read yet take to be read. Raises TrainingError when
    the minutes are too few, ConfigError for a recipe that refines.
    """
    if recipe.refine.steps > 0:
        raise ConfigError("--minutes plans detection alone, and this recipe refines too; set its steps by --set")
    began = time.monotonic()
    trial = copy.deepcopy(model)
    tried, since = WARM, began
    for warming in (True, False):
        if not warming:
            ended = time.monotonic()
            tried = min(max(int(TRIED_S * WARM / max(ended - since, 1e-9)), TRIED_LEAST), TRIED)
            since = ended
        steps = tried
        short = recipe.model_copy(update={"detect": recipe.detect.model_copy(update={"steps": steps})})
        with tempfile.TemporaryDirectory(prefix="flawmap-") as place, torch.random.fork_rng():
            train_detection(
                trial, images, short, machine, Path(place), resume=False, quiet=True, real=real, variation=variation
            )
    step_s = (time.monotonic() - since) / tried
    trial.eval()
    since = time.monotonic()
    looks = min(LOOKS, len(parts))
    for index in range(looks):
        parts.score(trial, index, machine.device)
    look_s = (time.monotonic() - since) / looks
    # What is familiar takes three looks at each photo, of which all but the first are short where there is room to keep
    # what was seen, and paints defects onto some more (train/familiar.py).
    # Where places are remembered, ImageNet's features of further photos are looked at, once.
    # Where photos were set aside as suspicious, more of them tell, and all is fitted twice if all tell.
    telling = REMEMBERED_PHOTOS if recipe.clean.contamination else PHOTOS
    twice = recipe.clean.contamination and recipe.threshold.calibration == "cross-fitted"
    known = (1.5 if parts.whole is not None else 3) * min(photos, telling) + 1.5 * PAINTED
    if recipe.model.memory and {*PRETRAINED} & {*recipe.model.familiarity}:
        known += 0.5 * max(min(photos, REMEMBERED_PHOTOS) - telling, 0)
    known *= 2 if twice else 1
    after_s = look_s * (known if recipe.model.familiarity else photos)
    left_s = SLACK * (60 * minutes - spent_s - (time.monotonic() - began) - to_read_s - after_s)
    plan = Plan(minutes, int(left_s / step_s), round(step_s, 4), round(after_s, 1))
    if plan.steps < FEWEST:
        least = math.ceil(minutes + (FEWEST * step_s - left_s) / SLACK / 60)
        raise TrainingError(
            f"{minutes:g} minutes are too few: a step takes {step_s:.2g} s on this machine, and what comes after the "
            f"steps {after_s / 60:.1f} minutes; give --minutes {least} or more"
        )
    write_atomically(folder / PLAN, json.dumps(plan._asdict()))
    return plan
