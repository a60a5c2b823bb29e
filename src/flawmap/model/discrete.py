"""General discrete latent model: a VQ-VAE-2 with a coarse (1/8) and a fine (1/4) grid of codes (DSR §3.1).

Source: Zavrtanik et al. 2022 and Razavi et al. 2019. The model is trained once on natural images and then frozen.

Axes: B images, D code length, H rows, W columns of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flawmap.model.blocks import ResidualStack
from flawmap.model.codebook import Codebook

FINE, COARSE = 4, 8  # pixels along the side of one cell of each grid


class Encoding(NamedTuple):
    """What an image becomes. Features are what the codes were chosen for.

    coarse_indices (B, H/8, W/8), fine_indices (B, H/4, W/4) int64; features and codes the same with D channels.
    """

    coarse_indices: Tensor
    fine_indices: Tensor
    coarse_features: Tensor
    fine_features: Tensor
    coarse_codes: Tensor
    fine_codes: Tensor


class FineEncoder(nn.Module):
    """Image (B, 3, H, W) -> (B, width, H/4, W/4)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width // 2, width, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.residual = ResidualStack(width, hidden)

    def early(self, image: Tensor) -> Tensor:
        """The first two convolutions, before the second's ReLU: (B, 3, H, W) -> (B, width, H/4, W/4)."""
        features: Tensor = self.conv2(torch.relu(self.conv1(image)))
        return features

    def late(self, early: Tensor) -> Tensor:
        """What follows `early`: (B, width, H/4, W/4) -> the same."""
        features: Tensor = self.residual(self.conv3(torch.relu(early)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, H/4, W/4)."""
        return self.late(self.early(x))


class CoarseEncoder(nn.Module):
    """Output of the fine encoder (B, width, H/4, W/4) -> (B, width, H/8, W/8)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.residual = ResidualStack(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H/4, W/4) -> (B, width, H/8, W/8)."""
        features: Tensor = self.residual(self.conv2(torch.relu(self.conv1(x))))
        return features


class GeneralDecoder(nn.Module):
    """Draws whatever the codes say: (B, 2D, H/4, W/4) -> image (B, 3, H, W), no output activation."""

    def __init__(self, inputs: int, width: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=1)
        self.residual = ResidualStack(width, hidden)
        self.up1 = nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(width // 2, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2D, H/4, W/4) -> (B, 3, H, W)."""
        x = self.residual(self.conv(x))
        image: Tensor = self.up2(torch.relu(self.up1(x)))
        return image


class DiscreteModel(nn.Module):
    """Image to codes of two grids and back. The paper's: 4096 codes of length 128, width 128, hidden 64.

    Image sides must be multiples of 8; values in [0, 1], channels in BGR order.
    """

    def __init__(self, codes: int = 4096, code_length: int = 128, width: int = 128, hidden: int = 64) -> None:
        super().__init__()
        self.fine_encoder = FineEncoder(width, hidden)
        self.coarse_encoder = CoarseEncoder(width, hidden)
        self.to_coarse = nn.Conv2d(width, code_length, 1)
        self.to_fine = nn.Conv2d(width + code_length, code_length, 1)
        self.coarse_codebook = Codebook(codes, code_length)
        self.fine_codebook = Codebook(codes, code_length)
        self.upsample = nn.ConvTranspose2d(code_length, code_length, 4, stride=2, padding=1)
        self.decoder = GeneralDecoder(2 * code_length, width, hidden)

    def encode(self, image: Tensor, quantize: bool = True) -> Encoding:
        """Codes of an image (B, 3, H, W)."""
        return self.encode_shared(self.fine_encoder(image), quantize)

    def encode_shared(self, shared: Tensor, quantize: bool = True) -> Encoding:
        """Codes from the fine encoder's output (B, width, H/4, W/4).

        Without `quantize` the features stand in the place of codes; the indices are still those of the nearest.
        """
        coarse_features = self.to_coarse(self.coarse_encoder(shared))
        coarse = self.coarse_codebook(coarse_features)
        fine_features = self.fine_features(shared, coarse.codes if quantize else coarse_features)
        fine = self.fine_codebook(fine_features)
        if not quantize:
            return Encoding(
                coarse.indices, fine.indices, coarse_features, fine_features, coarse_features, fine_features
            )
        return Encoding(coarse.indices, fine.indices, coarse_features, fine_features, coarse.codes, fine.codes)

    def encode_continuous(self, image: Tensor) -> Encoding:
        """The same without codebooks: codes are the features themselves, and the indices are empty."""
        shared = self.fine_encoder(image)
        coarse = self.to_coarse(self.coarse_encoder(shared))
        fine = self.fine_features(shared, coarse)
        none = torch.empty(0, dtype=torch.int64, device=image.device)
        return Encoding(none, none, coarse, fine, coarse, fine)

    @torch.no_grad()
    def start_codebooks(self, image: Tensor, generator: torch.Generator) -> None:
        """Start both codebooks from features of a batch; the fine features are those the coarse codes then give."""
        self.coarse_codebook.start(self.encode_continuous(image).coarse_features, generator)
        self.fine_codebook.start(self.encode(image).fine_features, generator)

    def fine_features(self, shared: Tensor, coarse_codes: Tensor) -> Tensor:
        """Fine features depend on the coarse codes: (B, width, H/4, W/4), (B, D, H/8, W/8) -> (B, D, H/4, W/4)."""
        features: Tensor = self.to_fine(torch.cat([shared, self.upsample(coarse_codes)], dim=1))
        return features

    def decode(self, coarse_codes: Tensor, fine_codes: Tensor) -> Tensor:
        """General drawing of codes: (B, D, H/8, W/8), (B, D, H/4, W/4) -> (B, 3, H, W)."""
        image: Tensor = self.decoder(torch.cat([self.upsample(coarse_codes), fine_codes], dim=1))
        return image

    @torch.no_grad()
    def normalise_codes(self) -> None:
        """Give both codebooks a standard deviation of 1 without changing what the model computes.

        The scale of a code is free: the layers before and after take it up. With a fixed one, the loss weights of the
        later trainings mean the same for every discrete model.
        """
        coarse, fine = float(self.coarse_codebook.vectors.std()), float(self.fine_codebook.vectors.std())
        for layer, book, scale in (
            (self.to_coarse, self.coarse_codebook, coarse),
            (self.to_fine, self.fine_codebook, fine),
        ):
            for tensor in (layer.weight, layer.bias, book.vectors, book.sums):
                assert tensor is not None
                tensor.div_(scale)
        self.upsample.weight.mul_(coarse)
        self.decoder.conv.weight[:, self.coarse_codebook.vectors.shape[1] :].mul_(fine)
