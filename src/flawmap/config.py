"""Every setting of a run: its meaning, unit, range and source. A run is one TOML file, a recipe.

`load_recipe` reads a file or a recipe shipped with flawmap, applies `--set a.b=c`, and checks the result;
`dump_recipe` writes it back whole. docs/settings.md is generated from the descriptions here.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from flawmap.errors import ConfigError, first_line


class Section(BaseModel):
    """Settings that belong together: none may be changed later, and unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Settings = TypeVar("Settings", bound=BaseModel)
Side = Annotated[int, Field(ge=32, le=4096, multiple_of=16)]


Share = Annotated[float, Field(ge=0, le=1)]
Polygon = tuple[tuple[Share, Share], ...]


class ImageSettings(Section):
    """How an image file becomes the network's input, and which part of it counts."""

    policy: Literal["resize", "tile"] = Field(
        "resize",
        description="`resize`: the whole image at the network's size, as in the paper. `tile`: the image is cut into "
        "overlapping tiles of that size, for parts that are large and defects that are small.",
    )
    size: Literal["given", "auto", "measured"] | Annotated[int, Field(ge=64, le=2048)] = Field(
        "given",
        description="Resize: the shorter side of the network's input, in pixels. `auto`: the photos' own, between 256 "
        "and 512, of photos of several sizes one that at most a quarter is enlarged to; `measured`: the smallest of "
        "some between these at which pretrained features tell spots and lines drawn into the photos about as well as "
        "at the best; a number: the photos' own, at most so many. The other side follows by `aspect`, and "
        "`model.reduction` with both. `given`: `height` and `width`, which win over a size wherever a recipe states "
        "them.",
    )
    budget_gflop: float = Field(
        0.0,
        ge=0,
        description="With `size`: no larger than inspects an image with so many GFLOP, 10⁹ multiplications and "
        "additions of convolutions and matrix products; 0: whatever it takes.",
    )
    height: Side = Field(
        256, description="Rows of the network's input (of a tile), in pixels; a multiple of 16. Paper: 256."
    )
    width: Side = Field(
        256, description="Columns of the network's input (of a tile), in pixels; a multiple of 16. Paper: 256."
    )
    aspect: Literal["fixed", "photos"] = Field(
        "fixed",
        description="`photos`: at the start of a training the longer side follows the good photos' own shape, between "
        "1 and 4 times the shorter of `height` and `width`, which the other side keeps. `fixed`: `height` and `width` "
        "as they are, whatever the photos' shape. Tiles are fixed whatever is said here.",
    )
    shrink: Literal["linear", "area"] = Field(
        "linear", description="Interpolation when an image is made smaller; `linear` is the authors'."
    )
    scale: float = Field(
        1.0, gt=0, le=4, description="Tile: the image is first resized by this factor; 0.5 makes it half as wide."
    )
    overlap: float = Field(
        0.25,
        ge=0,
        le=0.5,
        description="Tile: share of a tile's side that neighbours have in common at least. MONAI's sliding window: "
        "0.25; nnU-Net: 0.5.",
    )
    include: tuple[Polygon, ...] = Field(
        (),
        description="Polygons `[[x, y], …]` inside which the image counts, in shares of its width and height from the "
        "top left; empty: all of it. What does not count is neither scored nor outlined.",
    )
    exclude: tuple[Polygon, ...] = Field((), description="Polygons, as in `include`, inside which it does not count.")
    white: Literal["auto"] | Annotated[int, Field(ge=255, le=65535)] = Field(
        "auto",
        description="The pixel value that is full white in photos with 16 bits: cameras store 10, 12 or 14 bits in "
        "them (1023, 4095, 16383), and few files say which; what a file says reliably wins (docs/data.md). `auto`: the "
        "smallest of these that no training photo exceeds, if one comes within a factor of 2 of it, else 65535; a "
        "training notes what it took. Photos with 8 bits are not affected.",
    )
    ignore: str = Field(
        "",
        description="An image file of the photos' own size, white where they do not count; the bundle keeps a copy.",
    )

    @model_validator(mode="before")
    @classmethod
    def _tiles_have_a_fixed_shape(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("policy") == "tile" and values.get("aspect") == "photos":
            return values | {"aspect": "fixed"}
        return values

    @model_validator(mode="after")
    def _polygons(self) -> ImageSettings:
        for polygon in (*self.include, *self.exclude):
            pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
            if abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) < 2e-6:
                raise ValueError("a polygon needs three corners or more that are not on one line")
        return self


class ModelSettings(Section):
    """Sizes of the networks. The defaults are the paper's."""

    prior: str = Field(
        "",
        description="The general prior to start from: the name of a shipped one (`lean`) or a file. Empty: the general "
        "discrete model alone, everything else untrained, as in the paper. A prior's training may start from one too.",
    )
    warm: Literal["all", "drawing", "none"] = Field(
        "all",
        description="What starts from the prior besides the discrete model: restriction, object decoder and detection "
        "(`all`), the first two (`drawing`), or nothing (`none`).",
    )
    codes: int = Field(4096, ge=2, le=65536, description="Codes in each of the two codebooks. Paper: 4096.")
    code_length: int = Field(128, ge=4, le=1024, description="Numbers in a code. Paper: 128.")
    discrete_width: int = Field(128, ge=8, le=1024, description="Channels of the discrete model. Paper: 128.")
    discrete_hidden: int = Field(64, ge=4, le=1024, description="Channels inside its residual layers. Paper: 64.")
    restriction_widths: tuple[int, int, int] = Field(
        (128, 256, 512), description="Channels of the subspace restriction's three levels. Paper: 128, 256, 512."
    )
    decoder: Literal["paper", "general", "frozen"] = Field(
        "paper",
        description="Object-specific decoder: `paper`'s own network; `general`, which has the general decoder's shape "
        "and starts from its weights; or `frozen`, the general decoder itself, which learns nothing (an ablation).",
    )
    restriction: Literal["learned", "none"] = Field(
        "learned",
        description="Subspace restriction: `none` draws as a good part what the codes say as they are (an ablation). "
        "Paper: learned.",
    )
    quantize: bool = Field(
        True,
        description="Features become codes; `false` leaves them continuous, but where codes are altered (an ablation). "
        "Paper: true.",
    )
    compared_with: Literal["general", "image"] = Field(
        "general",
        description="What detection compares the object-specific drawing with: the general drawing, or the `image` "
        "itself (an ablation). Paper: general.",
    )
    decoder_widths: tuple[int, int, int] = Field(
        (256, 512, 1024),
        description="Channels of the paper's object-specific decoder at 1/4, 1/8, 1/16. Paper: 256, 512, 1024.",
    )
    detection_width: int = Field(
        64,
        ge=4,
        le=512,
        description="Channels of the detection U-Net's first level; the next have 2, 4 and 4 times as many. Paper: 64.",
    )
    refinement_width: int = Field(
        64, ge=4, le=512, description="The same for the upsampling (refinement) module. Paper: 64."
    )
    norm: Literal["instance", "batch"] = Field(
        "instance",
        description="Normalisation in restriction, detection and refinement: `instance` is the paper's; `batch` sees a "
        "part of an image as it sees the whole, and costs nothing when inspecting.",
    )
    detection_norm: Literal["same", "instance", "batch"] = Field(
        "same", description="Normalisation in detection alone; `same` is that of `norm`. Paper: same."
    )
    detection_scale: Literal[1, 2] = Field(
        1, description="Detection compares the drawings at 1/this of their size, and its map is enlarged. Paper: 1."
    )
    detection_standardise: bool = Field(
        False,
        description="Shift and scale what detection sees by mean and deviation of the image (of the general drawing, "
        "where it does not see the image). Paper: false.",
    )
    detection_sees_image: bool = Field(
        False, description="Detection reads the image itself beside its two drawings. Paper: false."
    )
    detection_fold: bool = Field(
        False,
        description="Where detection sees the image at 1/2 of its size: its pixels are folded into channels instead of "
        "averaged, and the map's come out of channels instead of being enlarged. Thin cracks stay thin.",
    )
    score_side: int = Field(
        21,
        ge=1,
        le=127,
        description="The score is the largest mean of the map over a square of this side, in pixels at the network's "
        "size; odd. A small square finds small defects, a large one is calmer. Authors: 21.",
    )
    score_pixels: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Instead of a square: the score is the mean, by log-odds, of so many of the map's largest pixels "
        "wherever they lie, since a thin crack fills no square. 0, as in the paper: a square.",
    )

    familiarity: tuple[Literal["encoder", "local", "detection", "imagenet", "imagenet_high"], ...] = Field(
        (),
        description="Further evidence of a defect, fused with detection's map: how unlike those of good photos the "
        "features are of the discrete model's `encoder`, of the same where brightness and contrast are levelled "
        "(`local`), of `detection`, and of EfficientNet-Lite0, trained on the photos of ImageNet, in low resolution "
        "(`imagenet`, 1/16 of the input) and in high resolution (`imagenet_high`, 1/8). Fitted after the training, in "
        "some minutes; the bundle keeps what serves. Paper: none.",
    )
    neighbourhood: Literal[1, 3, 5, 7] = Field(
        5,
        description="With `imagenet`: cells along the side of the square that a feature of low resolution is the mean "
        "over.",
    )
    components: int = Field(
        0,
        ge=0,
        le=1024,
        description="Principal components kept of pretrained features, of either resolution, before they are whitened; "
        "0: all. Fewer take less time, and what varies least among good parts is noise.",
    )
    source_weights: Literal["selected", "cubed"] = Field(
        "selected",
        description="How much each score source counts, by its AUROC on painted defects. `selected`: in proportion to "
        "how far that is above chance, and sources that hardly find these defects or vary much among good photos are "
        "left out. `cubed`: by its third power, pretrained features are never left out, others also where no Gaussian "
        "describes them. In the map that is shown detection's own, which was trained on such defects, counts by the "
        "square of its weight, at most by half, and low resolution by a third where high resolution is there.",
    )
    reduction: Literal[1, 2, 3, 4] = Field(
        1,
        description="The discrete model, both reconstructions and detection see the image at 1/this of the network's "
        "size; pretrained features see all of it. Set by `image.size` where that is given. Paper: 1.",
    )
    fusion: Literal["maximum", "log-mean-exp", "mean"] = Field(
        "maximum",
        description="How several score sources at a place become one, for the score: the strongest decides "
        "(`maximum`), what others say there adds to it a little (`log-mean-exp`), or all count by their weights "
        "(`mean`; with `source_weights` = `cubed` none counts as less than -4 standard deviations, as in the map).",
    )

    guided: bool = Field(
        False,
        description="With `familiarity`: the map that is shown takes its outlines from the photo. It is the mean of "
        "what the evidence says and of the same after a guided filter (He, Sun & Tang 2013). Scores are taken without "
        "it. Paper: false.",
    )

    backbone: str = Field(
        "",
        description="An ONNX file of a network of your own, whose feature maps take the place of EfficientNet-Lite0's "
        "for `imagenet` and `imagenet_high` among `familiarity` (docs/backbones.md). The bundle keeps the network, so "
        "inspecting needs neither the file nor ONNX. Empty: EfficientNet-Lite0.",
    )
    backbone_mean: tuple[Share, ...] = Field(
        (),
        description="Mean of each of the backbone's channels, of pixels in [0, 1], in its own order, as "
        "`[0.485, 0.456, 0.406]`. Empty: as the file's metadata says (`mean`), else 0.",
    )
    backbone_deviation: tuple[Share, ...] = Field(
        (),
        description="Deviation of each of them, as `[0.229, 0.224, 0.225]`. Empty: as the file's metadata says "
        "(`deviation` or `std`), else 1.",
    )
    backbone_order: Literal["auto", "rgb", "bgr"] = Field(
        "auto",
        description="Order of the backbone's channels. `auto`: as the file's metadata says (`order`), else `rgb`.",
    )
    backbone_sha256: str = Field(
        "",
        pattern="^([0-9a-f]{64})?$",
        description="SHA-256 of the backbone's file, noted by the training; a recipe that has it refuses another file.",
    )

    memory: int = Field(
        0,
        ge=0,
        le=20_000,
        description="With `imagenet` or `imagenet_high` among `familiarity`: how many patches of good photos the "
        "memory bank of each holds, chosen by k-center greedy (coreset), so that a new one is compared with the most "
        "similar of them (nearest neighbour) instead of with the mean of all. 0: with the mean.",
    )
    turned_patches: Literal["never", "auto", "always"] = Field(
        "never",
        description="With `memory`: the banks also hold patches of the good photos turned by 90°, 180° and 270° (of "
        "up to 200 photos), so that few photos show parts at more angles. `auto`: where the good photos show parts at "
        "varying angles, which is recognised before the training. A training settles it to `always` or `never`.",
    )

    @model_validator(mode="after")
    def _odd(self) -> ModelSettings:
        if self.score_side % 2 == 0:
            raise ValueError(f"score_side must be odd, not {self.score_side}")
        if self.detection_fold and not (self.detection_sees_image and self.detection_scale > 1):
            raise ValueError("detection_fold needs detection_sees_image = true and detection_scale = 2")
        if len(set(self.familiarity)) < len(self.familiarity):
            raise ValueError("familiarity names a kind of features twice")
        for name in ("backbone_mean", "backbone_deviation"):
            if len(getattr(self, name)) not in (0, 3):
                raise ValueError(f"{name} takes three numbers, one for each channel")
        if 0 in self.backbone_deviation:
            raise ValueError("backbone_deviation is divided by, so no number of it may be 0")
        if self.guided and not self.familiarity:
            raise ValueError("guided needs familiarity; name kinds of features in it, or set guided = false")
        return self


class AnomalySettings(Section):
    """Training defects: Perlin masks, and codes replaced under them (DSR §3.3)."""

    strength_min: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Smallest strength: the share of the codebook, nearest first, to draw codes from. Authors: 0.2.",
    )
    strength_max: float = Field(1.0, gt=0, le=1, description="Largest strength. Authors: 1.0.")
    skip_nearest: float = Field(0.05, ge=0, lt=1, description="Share of the nearest codes never drawn. Authors: 0.05.")
    ranks: Literal["exact", "table"] = Field(
        "exact",
        description="How codes are ranked when one is drawn: `exact` sorts all distances of each cell's feature (the "
        "paper); `table` looks the rank up among the neighbours of the cell's code, in no time.",
    )
    grids: Literal["both", "coarse", "fine"] = Field(
        "both",
        description="Codes are altered on the `coarse` or the `fine` grid alone, or as `both_grids` says. Paper: both.",
    )
    both_grids: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Probability that both grids are altered; else coarse or fine alone, equally often. Authors: 0.5.",
    )
    empty: float = Field(0.5, ge=0, le=1, description="Probability that a sample has no defect. Authors: 0.5.")
    perlin_octaves: int = Field(
        5,
        ge=0,
        le=8,
        description="Noise cells a side are 2^u, u drawn from 0 to this, for x and y separately. Authors: 5.",
    )
    perlin_threshold: float = Field(
        0.5, gt=-1, lt=1, description="The mask is where the noise exceeds this. Authors: 0.5."
    )
    rotate: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Probability that a good image is rotated by U(-rotate_degrees, rotate_degrees). Authors: 0.4.",
    )
    rotate_degrees: float = Field(90.0, ge=0, le=180, description="Largest rotation, in degrees. Authors: 90.")
    rotate_border: Literal["black", "mirror"] = Field(
        "black", description="What a rotated image shows beyond its border. Authors: black."
    )
    turned: Literal["given", "auto"] = Field(
        "given",
        description="`auto`: where the good photos show parts at varying angles, recognised before the training, "
        "and `rotate` is 0, half of the images are rotated by up to 180°, mirrored beyond their border, and "
        "`detect.replay_turns` is `quarter` instead of `none`. `given`: as these settings say.",
    )
    place: Literal["codes", "image", "smudges"] = Field(
        "codes",
        description="Where training defects are made: in the `codes` that the networks read (the paper), or painted "
        "onto the `image` from what altered codes draw, and encoded anew; or, an ablation, `smudges` of one colour on "
        "the image, in which codes have no part.",
    )
    shift: float = Field(
        0.35, ge=0, le=1, description="Painted: share of the defects made by shifting all codes of a region alike."
    )
    blend: float = Field(
        0.35, ge=0, le=1, description="Painted: share made by drawing a region's codes towards one code of the object."
    )
    transplant: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Painted: share made of the codes of another good image, from another place of it. What `shift`, "
        "`blend`, `transplant` and `deform` leave is made by the paper's rule.",
    )
    deform: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Painted: share made of the image's own codes from up to a few cells away, as if it were bent.",
    )
    decoy: float = Field(
        0.3, ge=0, le=1, description="Painted: share of images with a region redrawn from its own codes: no defect."
    )
    lines: float = Field(0.3, ge=0, le=1, description="Painted: share of the defects that are thin lines.")
    blobs: float = Field(0.3, ge=0, le=1, description="Painted: share that are blobs.")
    regions: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Painted: share that are bands or one side of a bent line, up to half of the image. What `lines`, "
        "`blobs` and `regions` leave are Perlin patches.",
    )
    cracks: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Painted: share of the `lines` that run almost straight; on surfaces with streaks, none.",
    )
    opacity_min: float = Field(
        0.4,
        ge=0,
        description="Painted: smallest factor on what altered codes change; of smudges, their smallest opacity.",
    )
    opacity_max: float = Field(1.2, gt=0, description="Painted: largest factor on what altered codes change.")
    visible: float = Field(
        0.02,
        gt=0,
        le=10,
        description="Painted: mean change of a pixel, of 1, under which it does not count as a defect; with "
        "`contrast_max` in units of the surface's grain.",
    )
    contrast_min: float = Field(1.0, gt=0, description="Painted: see `contrast_max`.")
    contrast_max: float = Field(
        0.0,
        ge=0,
        description="Painted: a defect fainter than this is raised to a mean change drawn between `contrast_min` and "
        "this, in units of the surface's grain (the deviation of a photo from its own local mean); 0: never.",
    )
    faint: Literal["good", "ignored"] = Field(
        "good",
        description="Painted: what is fainter than `visible` counts as good, or is left out of the loss. With "
        "`ignored` a thin line is judged by its own pixels, not with the unchanged ones beside it.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> AnomalySettings:
        if not self.skip_nearest < self.strength_min <= self.strength_max:
            raise ValueError("skip_nearest < strength_min <= strength_max must hold")
        if self.shift + self.blend + self.transplant + self.deform > 1 or self.lines + self.blobs + self.regions > 1:
            raise ValueError("shift + blend + transplant + deform and lines + blobs + regions must not exceed 1")
        if self.contrast_max and self.contrast_min > self.contrast_max:
            raise ValueError("contrast_min must not exceed contrast_max")
        if self.opacity_min > self.opacity_max:
            raise ValueError("opacity_min must not exceed opacity_max")
        return self


class CleanSettings(Section):
    """What is done where some of the photos given as good may show defects (beyond the paper)."""

    contamination: float = Field(
        0.0,
        ge=0,
        le=0.3,
        description="The share of the good photos that may show defects. So many, those most unlike the others, are "
        "set aside before the training, and with `threshold.calibration` = `cross-fitted` once more, by what was "
        "learnt, before the threshold is set. Where fewer show defects, good parts that look odd are set aside, and up "
        "to so many more of their like are rejected.",
    )


class FewSettings(Section):
    """What differs in stage 2 where there are few good photos: more is kept of the prior, and photos are varied (beyond
    the paper)."""

    below: int = Field(
        0,
        ge=0,
        description="This section holds where fewer photos than this are trained on; 0: never, as in the paper.",
    )
    until: int = Field(
        0,
        ge=0,
        description="Between `below` and this many photos `rate`, `steps` and how often a photo is varied change "
        "smoothly to what holds for many, by the logarithm of their number, and `warm` holds; 0: all at once, at "
        "`below`.",
    )
    warm: Literal["all", "drawing", "none"] = Field("all", description="`model.warm` then, where there is a prior.")
    rate: float = Field(2e-4, gt=0, description="`detect.rate` then.")
    steps: int = Field(
        0, ge=0, description="`detect.steps` then, where it is more; 0: as it is. Long training wears off the prior."
    )
    mirror: Literal["none", "across", "down", "both"] = Field(
        "both", description="One in two is mirrored left and right, top and bottom, or either."
    )
    zoom: float = Field(0.15, ge=0, lt=1, description="Zoomed by up to this share, in or out.")
    stretch: float = Field(0.08, ge=0, lt=1, description="Stretched or squeezed by up to this share along its height.")
    move: float = Field(0.025, ge=0, le=0.5, description="Moved by up to this share of the sides.")
    grain: float = Field(
        0.5, ge=0, le=2, description="Its deviation from the local mean times e^U(-this, this): rougher or smoother."
    )
    contrast: float = Field(0.25, ge=0, le=2, description="Its deviation from its mean times e^U(-this, this).")
    brightness: float = Field(0.2, ge=0, le=2, description="Times e^U(-this, this): darker or brighter.")


class RealSettings(Section):
    """Real defective photos, where some are given to learn from too (`flawmap train --defects`; beyond the paper).
    Detection alone learns from them, in place of one of its `views`."""

    batch: int = Field(2, ge=1, le=64, description="Real defects that detection sees in each step.")
    pasted: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of these that are cut out of their photo and pasted onto a good one, anywhere, mirrored or "
        "not, a third fainter to a third stronger. It takes a mask; the others are seen as they are, a little varied.",
    )
    weight: float = Field(1.0, gt=0, description="Weight of detection's loss on them.")
    highest: float = Field(
        0.002,
        gt=0,
        lt=1,
        description="Of a photo without a mask: the share of its pixels, the most suspicious, taken to be defective.",
    )


class DetectSettings(Section):
    """Anomaly detection training (stage 2)."""

    steps: int = Field(100_000, ge=1, description="Optimizer steps. Paper: 100 000.")
    batch: int = Field(8, ge=1, description="Images a step. Paper: 8.")
    crop: int = Field(
        0,
        ge=0,
        multiple_of=16,
        description="Side of a random square crop to train on, in pixels of the network's input; 0 for all. Paper: 0.",
    )
    rate: float = Field(2e-4, gt=0, description="Adam's learning rate. Paper: 2e-4.")
    drawing_rate: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor on the rate for restriction and object decoder, which may start from a prior. Paper: 1.",
    )
    drop_at: float = Field(
        0.8, ge=0, le=1, description="Share of the run after which the rate is multiplied by `drop`. Paper: 0.8."
    )
    drop: float = Field(0.1, gt=0, le=1, description="Factor on the rate after `drop_at`. Paper: 0.1.")
    schedule: Literal["drop", "cosine"] = Field(
        "drop",
        description="`drop`: the paper's. `cosine`: it rises over `warmup` steps, then falls to 0 as a cosine does.",
    )
    warmup: int = Field(50, ge=0, description="Steps over which the rate of a `cosine` schedule rises.")
    views: int = Field(
        1,
        ge=1,
        le=8,
        description="Detection's optimizer steps for each batch; the second and later ones are on what `replay` keeps, "
        "turned as `replay_turns` says. Making defects and drawings costs more than detection. Paper: 1.",
    )
    replay: int = Field(
        0, ge=0, le=4096, description="Batches kept to be seen again, in memory; 0: only the one at hand. Paper: 0."
    )
    replay_turns: Literal["none", "mirror", "quarter"] = Field(
        "quarter",
        description="What is seen again is seen as it was (`none`), mirrored or not (`mirror`), or also turned by a "
        "quarter (`quarter`, of square pictures). Where parts always lie alike, `none` learns what is normal soonest.",
    )
    settle: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the run after which restriction and object decoder stay as they are and draw as they do "
        "when inspecting; detection goes on alone. Their `cosine` schedule ends there. Paper: 1.",
    )
    restriction_weight: float = Field(
        1.0, ge=0, description="Weight of L2(restricted features, clean codes), each grid. Authors: 1."
    )
    image_weight: float = Field(10.0, ge=0, description="Weight of L2(object-specific image, input). Authors: 10.")
    detection_weight: float = Field(1.0, ge=0, description="Weight of the focal loss of the map. Authors: 1.")
    extremes_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the cross-entropy of the most suspicious 0.2 % of the good and of the defective pixels "
        "of each image, which decide its verdict. Paper: 0.",
    )


class RefineSettings(Section):
    """Upsampling module training (stage 3)."""

    steps: int = Field(
        50_000,
        ge=0,
        description="Optimizer steps; 0 leaves the module out, and the map is the detection's. Paper: 50 000.",
    )
    batch: int = Field(8, ge=1, description="Images a step. Paper: 8.")
    crop: int = Field(0, ge=0, multiple_of=16, description="As in `detect`.")
    rate: float = Field(2e-4, gt=0, description="Adam's learning rate. Paper: 2e-4.")
    rotate: float = Field(0.3, ge=0, le=1, description="Probability that a good image is rotated. Authors: 0.3.")
    empty: float = Field(0.5, ge=0, le=1, description="Probability that a sample has no smudge. Authors: 0.5.")
    transparency_max: float = Field(
        0.8, ge=0, lt=1, description="A smudge's colour is blended in with weight 1 - U(0, this). Authors: 0.8."
    )


class PretrainSettings(Section):
    """Training of the general discrete model (stage 1)."""

    steps: int = Field(100_000, ge=1, description="Optimizer steps.")
    batch: int = Field(12, ge=1, description="Crops a step, per process.")
    crop: int = Field(128, ge=16, multiple_of=16, description="Side of a square training crop in pixels.")
    rate: float = Field(1e-3, gt=0, description="Adam's largest learning rate.")
    warmup: int = Field(
        200, ge=0, description="Steps over which the rate rises from 0; it then falls to 0 along a cosine."
    )
    continuous: int = Field(
        0,
        ge=0,
        description="First steps that train encoders and decoder without codebooks, which then start from features.",
    )
    image_weight: float = Field(
        1.0, gt=0, description="Weight of the image L2. METHOD: 1; 16 is about one over the variance of natural images."
    )
    commitment: float = Field(
        0.25, ge=0, description="Weight of ||features - codes||^2, each grid. van den Oord et al. 2017: 0.25."
    )
    decay: float = Field(
        0.99, gt=0, lt=1, description="Decay of the codebooks' moving averages, a step. van den Oord et al. 2017: 0.99."
    )
    revive_every: int = Field(10, ge=0, description="Steps between two looks for dead codes; 0 for never.")
    revive_until: float = Field(0.8, ge=0, le=1, description="Share of the run after which dead codes are left alone.")
    held_out: float = Field(
        0.05, gt=0, lt=1, description="Share of the images kept out of training for PSNR and codebook use."
    )
    prior: bool = Field(
        False,
        description="After the discrete model, also train restriction, object decoder and detection on the same "
        "images, as `detect` and `anomalies` say: a general prior.",
    )
    check_every: int = Field(500, ge=1, description="Steps between two measurements on the held-out images.")


class ThresholdSettings(Section):
    """Where good ends and defective begins."""

    held_out: float = Field(
        0.1, gt=0, lt=1, description="Share of the good training images kept out of training to set the threshold."
    )
    held_out_min: int = Field(
        8, ge=1, description="At least this many good images are kept out, unless they are few (`held_out_most`)."
    )
    held_out_most: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Of few photos no more than this share is kept out to have `held_out_min` of them; where scores "
        "are cross-fitted (`calibration`) none is then, as each photo is compared with the others. 1, and where a "
        "recipe states `held_out_min` alone: so many, whatever there is.",
    )
    held_out_by: Literal["folder", "run", "photo"] = Field(
        "folder",
        description="`folder`: where the good photos lie in 8 folders or more (one for each part, day or batch), whole "
        "folders are kept out. A threshold set from photos of parts that were trained on is too low for new parts. "
        "`run`: the same, and where they lie together, four stretches in the order of their names. `photo`: any "
        "photos.",
    )
    calibration: Literal["held-out", "cross-fitted"] = Field(
        "held-out",
        description="Which good photos tell what good parts come to, where `model.familiarity` is used. `held-out`: "
        "those kept out of training. `cross-fitted`: all, each held against what the others tell; more photos, though "
        "the detection network has learnt from most of them.",
    )
    folds: Literal["random", "runs"] = Field(
        "random",
        description="Which good photos are left out together, where each is compared with the others: `runs`: those of "
        "one folder, those taken one after another, or those that look alike, whichever gives the higher scores. The "
        "threshold then says how many independent groups there are, and promises nothing of too few. `random`: those "
        "of one folder where whole folders are kept out, else any.",
    )
    tail: Literal["observed", "estimated"] = Field(
        "observed",
        description="Where so few good photos have a say that one odd one among them moves the threshold: `observed` "
        "takes the score that keeps the promise all the same, `estimated` reads a lower one off the tail of their "
        "scores, and promises nothing.",
    )
    overkill: float = Field(0.01, gt=0, lt=1, description="Share of good parts one accepts to reject.")
    smallest_found: bool = Field(
        True,
        description="After `flawmap train`: how small a spot of 20 % contrast is found in 9 of 10 at this threshold, "
        "drawn into at most 12 good photos that had a say in it; it takes about 20 seconds at most.",
    )

    @model_validator(mode="before")
    @classmethod
    def _stated_alone(cls, values: Any) -> Any:
        """Recipes from before `held_out_most`, and whoever states `held_out_min`, mean that number."""
        if isinstance(values, dict) and "held_out_min" in values and "held_out_most" not in values:
            return {**values, "held_out_most": 1.0}
        return values


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a smallest area is 20, 20 px, 0.5 mm or 0.2 mm2")
    return value


Area = Annotated[float | str, BeforeValidator(_no_truth)]


class PlaceSettings(Section):
    """Which places of a map count as places; the verdict is by the score alone."""

    smallest: Area = Field(
        4.0,
        description='The smallest area of a place: pixels of the photo (`20`, `"20 px"`), or with `mm_per_pixel` the '
        'width of a round spot (`"0.5 mm"`) or an area (`"0.2 mm2"`). Smaller specks are no places, neither in '
        "results nor on the station's page; the verdict does not change.",
    )
    mm_per_pixel: float = Field(
        0.0, ge=0, description="What a pixel of the photo measures, in millimetres along its side; 0: not known."
    )

    @model_validator(mode="after")
    def _known_scale(self) -> PlaceSettings:
        smallest_area(self.smallest, self.mm_per_pixel)
        return self

    @property
    def pixels(self) -> int:
        """The smallest area in pixels of the photo, 1 at least."""
        return smallest_area(self.smallest, self.mm_per_pixel)


AREA = re.compile(r"(?P<number>\d+(?:[.,]\d+)?)\s*(?P<unit>|px²?|px2|pixels?|mm|mm2|mm²)", re.IGNORECASE)


def smallest_area(value: float | str, mm_per_pixel: float = 0.0) -> int:
    """An area in whole pixels, 1 at least, from a number of pixels or a text as `20 px`, `0.5 mm`, `0.2 mm2`.

    `0.5 mm` is the width of a round spot. A part of a pixel counts as one more, so that nothing smaller than asked is
    left. Raises ValueError for another text, for millimetres without `mm_per_pixel`, and for more than 10⁹ pixels.
    """
    found = AREA.fullmatch(str(value).strip())
    if found is None:
        raise ValueError(f"{value!r} is no smallest area; expected one as 20, 20 px, 0.5 mm or 0.2 mm2")
    number, unit = float(found["number"].replace(",", ".")), found["unit"].lower().replace("²", "2")
    if unit.startswith("mm"):
        if not mm_per_pixel:
            raise ValueError(f"{value!r} needs mm_per_pixel, what a pixel of the photo measures in millimetres")
        number = (number if unit == "mm2" else math.pi / 4 * number**2) / mm_per_pixel**2
    if number > 1e9:
        raise ValueError(f"{value!r} is {number:.3g} pixels, more than any photo has")
    return max(1, math.ceil(number - 1e-9))


class RunSettings(Section):
    """The machine's side of a run; the learned weights depend on it only through rounding."""

    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    device: str = Field("auto", description="`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ….")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of training: `auto` is bfloat16 on a CPU that has it, else float32."
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 for as many as there are cores.")
    disk_cache_gb: float = Field(
        16.0,
        ge=0,
        description="Training on tiles: decoded images are kept in a temporary file beside the bundle, up to this many "
        "GB; those that do not fit are decoded anew for each tile drawn, which is slow.",
    )
    checkpoint_seconds: float = Field(
        30.0, ge=0, description="Seconds between two checkpoints of a training: as much work as a kill can cost."
    )


class Recipe(Section):
    """All settings of a run."""

    image: ImageSettings = ImageSettings()
    model: ModelSettings = ModelSettings()
    anomalies: AnomalySettings = AnomalySettings()
    clean: CleanSettings = CleanSettings()
    few: FewSettings = FewSettings()
    real: RealSettings = RealSettings()
    detect: DetectSettings = DetectSettings()
    refine: RefineSettings = RefineSettings()
    pretrain: PretrainSettings = PretrainSettings()
    threshold: ThresholdSettings = ThresholdSettings()
    verdict: PlaceSettings = PlaceSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _one_map(self) -> Recipe:
        if self.model.familiarity and self.refine.steps:
            raise ValueError("model.familiarity fuses the map, which is then not refined: set refine.steps = 0")
        return self


def shipped_recipes() -> list[str]:
    """Names of the recipes inside the package, usable in place of a file."""
    folder = resources.files("flawmap") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def training_recipes() -> list[str]:
    """Those of them that train an inspector; the others, which have a `[pretrain]`, are for `flawmap pretrain`."""
    return [name for name in shipped_recipes() if "pretrain" not in tomllib.loads(_recipe_text(name))]


def load_recipe(source: str | Path | None = None, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe: a TOML file, or the name of a shipped one (`fast`, `paper`, also as `fast.toml`).

    `overrides` are `section.name=value`, the value in TOML syntax or, failing that, a plain string.
    None means the paper's defaults. Raises ConfigError.
    """
    values = {} if source is None else toml_values(_recipe_text(source), str(source))
    for override in overrides or []:
        apply_override(values, override)
    given = {".".join(_keys(override)): f"--set {override}" for override in overrides or []}
    return checked(Recipe, values, str(source or "settings"), given=given)


def recipe_from_text(text: str, name: str = "recipe") -> Recipe:
    """Check a recipe given as TOML text. Raises ConfigError."""
    return checked(Recipe, toml_values(text, name), name)


def toml_values(text: str, name: str) -> dict[str, Any]:
    """What a TOML text called `name` holds. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except ValueError as problem:  # TOMLDecodeError, and Python's own for a number of thousands of digits
        raise ConfigError(f"{name} is not valid TOML: {first_line(problem)}") from problem
    except RecursionError:
        raise ConfigError(f"{name} is not valid TOML: it is nested too deeply") from None


SETTLED = {"image": {"height", "width"}, "model": {"reduction"}}  # by `image.size`, where they are not stated


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as TOML, each setting written out; but none that `image.size` still is to settle, as it would
    then be stated and win."""
    lines: list[str] = []
    for section, values in recipe.model_dump(mode="json").items():
        lines.append(f"[{section}]")
        if recipe.image.size != "given":
            open_ = SETTLED.get(section, set()) - getattr(recipe, section).model_fields_set
            values = {name: value for name, value in values.items() if name not in open_}
        # JSON's strings, numbers, booleans and arrays are valid TOML.
        lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def _recipe_text(source: str | Path) -> str:
    if not isinstance(source, str | PathLike):
        raise ConfigError(f"a recipe is a TOML file or a name, as text or Path, not {type(source).__name__}")
    path = Path(source)
    try:
        there = path.is_file()
    except OSError:  # longer than a name can be
        there = False
    if there:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise ConfigError(f"{path} cannot be read as UTF-8 text; expected a TOML recipe") from problem
    name = path.name.removesuffix(".toml")
    if path.parent == Path() and name in shipped_recipes():
        return (resources.files("flawmap") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    shown = str(source)[:200]
    shown = shown if shown.isprintable() else repr(shown)
    raise ConfigError(f"no recipe {shown}; give a TOML file or one of: {', '.join(shipped_recipes())}")


def _keys(override: str) -> list[str]:
    """Section and name of `section.name=value`."""
    return override.partition("=")[0].strip().split(".")


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put `section.name=value` into settings read from TOML. Raises ConfigError."""
    _, equals, text = override.partition("=")
    keys = _keys(override)
    if not equals or len(keys) != 2:
        raise ConfigError(f"--set {override}: expected section.name=value, for example detect.steps=500")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    section = values.setdefault(keys[0], {})
    if not isinstance(section, dict):
        raise ConfigError(f"--set {override}: {keys[0]} is not a section")
    section[keys[1]] = value


def _field(kind: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[FieldInfo | None, int]:
    """The field that an error lies in, and how many parts of its place lead there."""
    field, depth = None, 0
    for part in loc:
        inside = kind.model_fields.get(str(part))
        if inside is None:
            break
        field, depth = inside, depth + 1
        if not (isinstance(inside.annotation, type) and issubclass(inside.annotation, BaseModel)):
            break
        kind = inside.annotation
    return field, depth


def _choices(annotation: object) -> str:
    """In words, what a setting of several kinds may be: texts, and numbers within bounds; "" for other kinds."""
    words = []
    for each in get_args(annotation):
        if get_origin(each) is Literal:
            words += [repr(text) for text in get_args(each)]
            continue
        number, *facts = get_args(each) or (each,)
        bounds = [fact for field in facts for fact in getattr(field, "metadata", [])]
        low, high = (next((getattr(b, end) for b in bounds if hasattr(b, end)), None) for end in ("ge", "le"))
        if number is not int or low is None or high is None:
            return ""
        words.append(f"a whole number from {low} to {high}")
    return " or ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} or {words[-1]}"


def checked(
    kind: type[Settings],
    values: dict[str, Any],
    name: str,
    page: str = "docs/settings.md",
    given: Mapping[str, str] | None = None,
) -> Settings:
    """`values`, which came from `name`, as settings of a kind that `page` lists. Raises ConfigError.

    given: where single settings came from instead, by their names, as `image.white`
    """
    try:
        return kind.model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        field, depth = _field(kind, first["loc"])
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if field is not None and len(first["loc"]) > depth and (choices := _choices(field.annotation)):
            where, message = ".".join(map(str, first["loc"][:depth])), f"expected {choices}, not {first['input']!r}"
        name = (given or {}).get(".".join(str(part) for part in first["loc"][:2]), name)
        hint = f"there is no setting {where}" if first["type"] == "extra_forbidden" else f"{where}: {message}"
        raise ConfigError(f"{name}: {hint.removeprefix(': ')}; see {page}") from problem
