"""DSR assembled: two drawings of one image, and the map of where they differ (DSR §3; Zavrtanik et al. 2022).

The general decoder draws whatever the codes say, defect included; the object-specific decoder draws after subspace
restriction has pulled the features back to those of good parts.

Axes: B images, D code length, H, W rows and columns of the image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flawmap.model.blocks import enlarged, standardised
from flawmap.model.detection import DetectionUNet
from flawmap.model.discrete import DiscreteModel, Encoding
from flawmap.model.familiarity import HIGH, LOW, PHOTO, PRETRAINED, Familiarity, levelled
from flawmap.model.imagenet import ImageNetFeatures
from flawmap.model.onnx_backbone import BackboneFeatures
from flawmap.model.restriction import SubspaceRestriction

NEAREST = 1e-6  # to 0 and 1 that a pixel's log-odds are told
SCORE_SIDE = 21  # pixels along the side of the square that a score is a mean over (authors)


class ScoreRule(NamedTuple):
    """What of a map is its score: the largest mean over a square of odd `side`, or, if `pixels` is not 0, the mean of
    so many of its largest pixels, wherever they lie: a thin crack fills no square. These are averaged by their
    log-odds, as probabilities that are all nearly 1 would tell little. `stride`: of the map, whose pixels are each
    repeated so often along either side (`DSR.reduction`)."""

    side: int = SCORE_SIDE
    pixels: int = 0
    stride: int = 1


AUTHORS = ScoreRule()


class Restricted(NamedTuple):
    """Restricted features (B, D, H/8, W/8) and (B, D, H/4, W/4), and the codes nearest to them, straight-through."""

    coarse_features: Tensor
    fine_features: Tensor
    coarse_codes: Tensor
    fine_codes: Tensor


class DSRResult(NamedTuple):
    """What DSR finds in a batch of images.

    map (B, H, W): probability of a defect, refined (the same as detection_map without a refinement module), or,
    with familiarity, that of `Familiarity.shares`; detection_map (B, H, W): the same before refinement, or all
    evidence as one; object_image, general_image (B, 3, H, W): the drawings, about [0, 1] but not clipped; score
    (B,): `image_score` of detection_map; coarse_indices (B, H/8, W/8), fine_indices (B, H/4, W/4) int64;
    coarse_restricted (B, D, H/8, W/8), fine_restricted (B, D, H/4, W/4): restricted features before quantization.
    Maps and scores lie in [0, 1] and are float32, also under autocast.
    """

    map: Tensor
    detection_map: Tensor
    object_image: Tensor
    general_image: Tensor
    score: Tensor
    coarse_indices: Tensor
    fine_indices: Tensor
    coarse_restricted: Tensor
    fine_restricted: Tensor


class Examined(NamedTuple):
    """What a DSR computes of images on the way to their map.

    Drawings (B, 3, H, W), detection's logits (B, 2, H, W), and features (B, C, h, w) by the names of
    `familiarity.Source`; where the map is guided the images too, as PHOTO. H and W are those of the image over
    `DSR.reduction`.
    """

    encoding: Encoding
    restricted: Restricted
    object_image: Tensor
    general_image: Tensor
    logits: Tensor
    features: dict[str, Tensor]


class DSR(nn.Module):
    """The parts of DSR at work together; `refinement` may be None.

    `object_decoder` takes (B, 2D, H/4, W/4): an ObjectDecoder or a GeneralDecoder. Images are (B, 3, H, W), BGR, in
    [0, 1], sides multiples of 16. Beyond the paper, detection may compare the drawings at 1/`detection_scale` of the
    image's size, and may see the image itself as a third picture (`sees_image`), since codes lose what is faint. With
    `fold` the image's pixels are then folded into channels instead of averaged, and the map's come out of channels
    instead of being enlarged: nothing is lost at that size (space to depth; Shi et al. 2016).
    With `standardise` all it sees is shifted and scaled so that the last picture has mean 0 and deviation 1: a scratch
    on a dark part then looks like one on a bright part. With `familiarity` the maps are of several kinds of
    evidence, of which detection's own is one, and with `imagenet` features of another network among them; there is no
    refinement then. All but these features see the image at 1/`reduction` of its size, so that high resolution costs no
    more than the pretrained network; what comes out has the image's size all the same.

    Ablations: without `restricts` codes are drawn as they are; without `quantizes` features are not made codes; with
    `against_image` detection and refinement compare the object-specific drawing with the image, not a drawing of it.
    """

    def __init__(
        self,
        discrete: DiscreteModel,
        coarse_restriction: SubspaceRestriction,
        fine_restriction: SubspaceRestriction,
        object_decoder: nn.Module,
        detection: DetectionUNet,
        refinement: DetectionUNet | None = None,
        *,
        detection_scale: int = 1,
        sees_image: bool = False,
        standardise: bool = False,
        fold: bool = False,
        score_side: int = SCORE_SIDE,
        score_pixels: int = 0,
        familiarity: Familiarity | None = None,
        imagenet: ImageNetFeatures | BackboneFeatures | None = None,
        restricts: bool = True,
        quantizes: bool = True,
        against_image: bool = False,
        reduction: int = 1,
    ) -> None:
        super().__init__()
        assert familiarity is None or refinement is None, "a fused map is not refined"
        assert not fold or (sees_image and detection_scale > 1), "only an image seen at a smaller size can be folded"
        self.discrete = discrete
        self.coarse_restriction = coarse_restriction
        self.fine_restriction = fine_restriction
        self.object_decoder = object_decoder
        self.detection = detection
        self.refinement = refinement
        self.detection_scale, self.sees_image, self.standardise = detection_scale, sees_image, standardise
        self.fold = fold
        self._square, self._pixels = score_side, score_pixels
        self.familiarity = familiarity
        self.imagenet = imagenet
        self.restricts, self.quantizes, self.against_image = restricts, quantizes, against_image
        self.reduction = reduction

    @property
    def score_rule(self) -> ScoreRule:
        """How a score is taken from a map; with familiarity and squares, what it is taken from is their means."""
        return ScoreRule(self._square if self.familiarity is None else 1, self._pixels, self.reduction)

    @property
    def map_side(self) -> int:
        """Side of the square that detection's own map is a mean over, in a score."""
        return self._square

    def keep(self, sources: Collection[str]) -> None:
        """Leave out all evidence but detection's map and these sources of familiarity. In place."""
        assert self.familiarity is not None, "there is evidence to leave out"
        self.familiarity.keep(sources)
        if not {*PRETRAINED} & {*sources}:
            self.imagenet = None

    def encode(self, image: Tensor) -> Encoding:
        """Codes of images (B, 3, H, W), as the parts that follow read them."""
        return self.discrete.encode(image, self.quantizes)

    def restrict(self, coarse_codes: Tensor, fine_codes: Tensor) -> Restricted:
        """Pull the codes of both grids back to those of good parts; each grid on its own."""
        if not self.restricts:
            return Restricted(coarse_codes, fine_codes, coarse_codes, fine_codes)
        coarse_features = self.coarse_restriction(coarse_codes)
        fine_features = self.fine_restriction(fine_codes)
        if not self.quantizes:
            return Restricted(coarse_features, fine_features, coarse_features, fine_features)
        coarse = self.discrete.coarse_codebook(coarse_features)
        fine = self.discrete.fine_codebook(fine_features)
        return Restricted(coarse_features, fine_features, coarse.codes, fine.codes)

    def draw_object(self, coarse_codes: Tensor, fine_codes: Tensor) -> Tensor:
        """Object-specific drawing of restricted codes: (B, D, H/8, W/8), (B, D, H/4, W/4) -> (B, 3, H, W).

        Coarse codes are upsampled by the general model's layer, as in the authors' program.
        """
        image: Tensor = self.object_decoder(torch.cat([self.discrete.upsample(coarse_codes), fine_codes], dim=1))
        return image

    def detect(self, object_image: Tensor, general_image: Tensor, image: Tensor | None = None) -> Tensor:
        """Logits (B, 2, H, W) of where two drawings (B, 3, H, W) differ; channel 1 is "defect".

        `image` (B, 3, H, W), the one drawn, is needed only when detection sees it.
        """
        return self.judge(self.compared(object_image, general_image, image), object_image.shape[-2:])

    def compared(self, object_image: Tensor, general_image: Tensor, image: Tensor | None = None) -> Tensor:
        """What detection looks at, (B, C, H / scale, W / scale): the drawings, and the image if it sees that.

        C is `detection_channels` of the same choices.
        """
        if self.against_image:
            assert image is not None, "this detection compares a drawing with the image itself; pass it too"
            general_image = image.to(object_image.dtype)
        seen, scale = torch.cat([object_image, general_image], dim=1), self.detection_scale
        if self.sees_image:
            assert image is not None, "this detection sees the image itself; pass it too"
            if self.fold:
                folded = nn.functional.pixel_unshuffle(image.to(seen.dtype), scale)
                return torch.cat([nn.functional.avg_pool2d(seen, scale), folded], dim=1)
            seen = torch.cat([seen, image.to(seen.dtype)], dim=1)
        return nn.functional.avg_pool2d(seen, scale) if scale > 1 else seen

    def judge(self, seen: Tensor, size: Sequence[int]) -> Tensor:
        """Logits (B, 2, H, W) of `compared` pictures; `size` is (H, W)."""
        return self.judge_with_features(seen, size)[0]

    def judge_with_features(self, seen: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The same, and detection's inner features, at a quarter of the size of `seen`."""
        if self.standardise:
            seen = standardised(seen, 3 * self.detection_scale**2 if self.fold else 3)
        small, features = self.detection.with_features(seen)
        if self.fold:
            return nn.functional.pixel_shuffle(small, self.detection_scale), features
        if self.detection_scale == 1:
            return small, features
        logits = nn.functional.interpolate(small.float(), size=tuple(size), mode="bilinear", align_corners=False)
        return logits, features

    def refine(self, object_image: Tensor, general_image: Tensor, first_map: Tensor) -> Tensor:
        """Logits (B, 2, H, W) from the drawings (B, 3, H, W) and the softmaxed first map (B, 2, H, W).

        With `against_image` the image takes the place of `general_image`.
        """
        assert self.refinement is not None, "this DSR has no refinement module"
        logits: Tensor = self.refinement(torch.cat([object_image, general_image, first_map], dim=1))
        return logits

    def reduced(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) as all but pretrained features see them: (B, 3, H / reduction, W / reduction)."""
        return nn.functional.avg_pool2d(image, self.reduction) if self.reduction > 1 else image

    def examine(self, image: Tensor) -> Examined:
        """All that is computed of images (B, 3, H, W) before their map."""
        pretrained = self.pretrained(image)
        image = self.reduced(image)
        encoder = self.discrete.fine_encoder
        early = encoder.early(image)
        encoding = self.discrete.encode_shared(encoder.late(early), self.quantizes)
        restricted = self.restrict(encoding.coarse_codes, encoding.fine_codes)
        object_image = self.draw_object(restricted.coarse_codes, restricted.fine_codes)
        general_image = self.discrete.decode(encoding.coarse_codes, encoding.fine_codes)
        logits, inner = self.judge_with_features(
            self.compared(object_image, general_image, image), object_image.shape[-2:]
        )
        features = {"encoder": early, "detection": inner, **pretrained}
        if self.familiarity is not None and "local" in self.familiarity.sources:
            features["local"] = encoder.early(levelled(image))
        if self.familiarity is not None and self.familiarity.guided:
            features[PHOTO] = image
        return Examined(encoding, restricted, object_image, general_image, logits, features)

    def pretrained(self, image: Tensor) -> dict[str, Tensor]:
        """Pretrained features (B, C, h, w) of images (B, 3, H, W), by source: those of `familiarity` alone."""
        if self.imagenet is None:
            return {}
        assert self.familiarity is not None, "pretrained features are scored"
        blocks, sources = self.imagenet.blocks(image), self.familiarity.sources
        found = {}
        if LOW in sources:
            found[LOW] = self.imagenet.low_resolution(blocks)
        if HIGH in sources:
            found[HIGH] = self.imagenet.high_resolution(blocks)
        return found

    def forward(self, image: Tensor) -> DSRResult:
        """Inspect images (B, 3, H, W)."""
        encoding, restricted, object_image, general_image, logits, features = self.examine(image)
        if self.familiarity is None:
            first_map = torch.softmax(logits.float(), dim=1)  # (B, 2, H, W)
            detection_map = final_map = first_map[:, 1]
            if self.refinement is not None:
                other = self.reduced(image) if self.against_image else general_image
                final_map = torch.softmax(self.refine(object_image, other, first_map).float(), dim=1)[:, 1]
        else:
            final_map, detection_map = self.familiarity(logits, features, self._square)
        if self.reduction > 1:
            size = image.shape[-2:]
            final_map = enlarged(final_map.unsqueeze(1), size)[:, 0]
            detection_map = nn.functional.interpolate(detection_map.unsqueeze(1), size=size)[:, 0]  # each repeated
            object_image, general_image = enlarged(object_image, size), enlarged(general_image, size)
        return DSRResult(
            map=final_map,
            detection_map=detection_map,
            object_image=object_image,
            general_image=general_image,
            score=image_score(detection_map, self.score_rule),
            coarse_indices=encoding.coarse_indices,
            fine_indices=encoding.fine_indices,
            coarse_restricted=restricted.coarse_features,
            fine_restricted=restricted.fine_features,
        )


def detection_channels(sees_image: bool, scale: int, fold: bool) -> int:
    """Channels of what detection looks at (`DSR.compared`)."""
    return 6 + (3 * (scale**2 if fold else 1) if sees_image else 0)


def image_score(maps: Tensor, rule: ScoreRule = AUTHORS) -> Tensor:
    """The score of each map by `rule`: (B, H, W) -> (B,).

    Squares at stride 1, zeros beyond the border counted (authors). Of a map with fewer pixels than are averaged, all.
    """
    maps = maps[:, :: rule.stride, :: rule.stride]
    if rule.pixels:
        pixels = maps.flatten(1)
        largest = pixels.topk(min(rule.pixels, pixels.shape[1]), dim=1, sorted=False).values
        return torch.sigmoid(torch.logit(largest, NEAREST).mean(1))
    means = nn.functional.avg_pool2d(maps.unsqueeze(1), rule.side, stride=1, padding=rule.side // 2)
    return means.flatten(1).amax(1)
