"""The published program of DSR, transcribed plainly: what flawmap's speed is measured against.

Written from the description in Zavrtanik et al. 2022 and of the authors' program, layer by layer and in its order, with
nothing fused and nothing slowed down: float32 in PyTorch's default memory layout, InstanceNorm in every pair of
convolutions, nearest codes by the full matrix of distances and a one-hot matrix product, four searches an image. Its
training step sorts all K distances of every cell, image by image, on the CPU.

Modules have the names of flawmap's, so that weights are shared by `load_state_dict`; nothing else is shared.

Axes: B images, D code length (128), K codes (4096), H, W rows and columns of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CODES, LENGTH, WIDTH, HIDDEN = 4096, 128, 128, 64


class Result(NamedTuple):
    """map, detection_map (B, H, W), score (B,), drawings (B, 3, H, W), indices of both grids."""

    map: Tensor
    detection_map: Tensor
    score: Tensor
    object_image: Tensor
    general_image: Tensor
    coarse_indices: Tensor
    fine_indices: Tensor


class ResidualLayer(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv3x3 = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.conv1x1 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return x + self.conv1x1(F.relu(self.conv3x3(x)))


class ResidualStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([ResidualLayer(WIDTH, HIDDEN), ResidualLayer(WIDTH, HIDDEN)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return F.relu(x)


def pair(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 3, padding=1), nn.InstanceNorm2d(middle), nn.ReLU(),
        nn.Conv2d(middle, outputs, 3, padding=1), nn.InstanceNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def up_conv(inputs: int, outputs: int) -> nn.Sequential:
    upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return nn.Sequential(upsample, nn.Conv2d(inputs, outputs, 3, padding=1), nn.InstanceNorm2d(outputs), nn.ReLU())


class FineEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH // 2, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(WIDTH // 2, WIDTH, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.residual = ResidualStack()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        return self.residual(self.conv3(x))


class CoarseEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.residual = ResidualStack()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        return self.residual(F.relu(self.conv2(x)))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * LENGTH, WIDTH, 3, padding=1)
        self.residual = ResidualStack()
        self.up1 = nn.ConvTranspose2d(WIDTH, WIDTH // 2, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(WIDTH // 2, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.residual(self.conv(x))
        return self.up2(F.relu(self.up1(x)))


class Quantizer(nn.Module):
    """Nearest codes by the matrix of all distances; their vectors by a one-hot matrix product."""

    vectors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.randn(CODES, LENGTH))

    def distances(self, cells: Tensor) -> Tensor:
        """(N, D) -> (N, K)."""
        squares = cells.square().sum(1, keepdim=True) + self.vectors.square().sum(1)
        return squares - 2 * torch.matmul(cells, self.vectors.t())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) -> indices (B, h, w), codes (B, D, h, w), straight-through."""
        rows = features.permute(0, 2, 3, 1).contiguous()
        cells = rows.view(-1, LENGTH)
        indices = self.distances(cells).argmin(1)
        one_hot = torch.zeros(len(cells), CODES, device=features.device).scatter_(1, indices.unsqueeze(1), 1)
        codes = torch.matmul(one_hot, self.vectors).view(rows.shape)
        codes = rows + (codes - rows).detach()
        return indices.view(rows.shape[:3]), codes.permute(0, 3, 1, 2).contiguous()


class DiscreteModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine_encoder = FineEncoder()
        self.coarse_encoder = CoarseEncoder()
        self.to_coarse = nn.Conv2d(WIDTH, LENGTH, 1)
        self.to_fine = nn.Conv2d(WIDTH + LENGTH, LENGTH, 1)
        self.coarse_codebook = Quantizer()
        self.fine_codebook = Quantizer()
        self.upsample = nn.ConvTranspose2d(LENGTH, LENGTH, 4, stride=2, padding=1)
        self.decoder = Decoder()

    def fine_features(self, shared: Tensor, coarse_codes: Tensor) -> Tensor:
        return self.to_fine(torch.cat((shared, self.upsample(coarse_codes)), dim=1))

    def joined(self, coarse_codes: Tensor, fine_codes: Tensor) -> Tensor:
        return torch.cat((self.upsample(coarse_codes), fine_codes), dim=1)


class Restriction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = pair(LENGTH, 128, 128)
        self.down2 = pair(128, 256, 256)
        self.down3 = pair(256, 512, 512)
        self.up2 = nn.Sequential(nn.Conv2d(512, 256, 3, padding=1), nn.InstanceNorm2d(256), nn.ReLU())
        self.pair2 = pair(256, 256, 256)
        self.up1 = nn.Sequential(nn.Conv2d(256, 128, 3, padding=1), nn.InstanceNorm2d(128), nn.ReLU())
        self.pair1 = pair(128, 128, 128)
        self.out = nn.Conv2d(128, LENGTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.down1(x), 2)
        x = F.max_pool2d(self.down2(x), 2)
        x = self.down3(x)
        x = self.pair2(self.up2(doubled(x)))
        x = self.pair1(self.up1(doubled(x)))
        return self.out(x)


class ObjectDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = pair(2 * LENGTH, 256, 512)
        self.down2 = pair(512, 512, 1024)
        self.narrow = nn.Conv2d(1024, 64, 1)
        self.up1 = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1)
        self.conv = nn.Conv2d(64, WIDTH, 3, padding=1)
        self.residual = ResidualStack()
        self.up3 = nn.ConvTranspose2d(WIDTH, WIDTH // 2, 4, stride=2, padding=1)
        self.up4 = nn.ConvTranspose2d(WIDTH // 2, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.down1(x), 2)
        x = F.max_pool2d(self.down2(x), 2)
        x = F.relu(self.up1(self.narrow(x)))
        x = F.relu(self.up2(x))
        x = F.relu(self.up3(self.residual(self.conv(x))))
        return self.up4(x)


class UNet(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.down1 = pair(inputs, 64, 64)
        self.down2 = pair(64, 128, 128)
        self.down3 = pair(128, 256, 256)
        self.down4 = pair(256, 256, 256)
        self.up3 = up_conv(256, 256)
        self.pair3 = pair(512, 256, 256)
        self.up2 = up_conv(256, 128)
        self.pair2 = pair(256, 128, 128)
        self.up1 = up_conv(128, 64)
        self.pair1 = pair(128, 64, 64)
        self.out = nn.Conv2d(64, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        level1 = self.down1(x)
        level2 = self.down2(F.max_pool2d(level1, 2))
        level3 = self.down3(F.max_pool2d(level2, 2))
        x = self.down4(F.max_pool2d(level3, 2))
        x = self.pair3(torch.cat((self.up3(x), level3), dim=1))
        x = self.pair2(torch.cat((self.up2(x), level2), dim=1))
        x = self.pair1(torch.cat((self.up1(x), level1), dim=1))
        return self.out(x)


class Transcription(nn.Module):
    """All networks of the published program. Inspects images (B, 3, H, W), BGR in [0, 1]."""

    def __init__(self, with_refinement: bool = True) -> None:
        super().__init__()
        self.discrete = DiscreteModel()
        self.coarse_restriction = Restriction()
        self.fine_restriction = Restriction()
        self.object_decoder = ObjectDecoder()
        self.detection = UNet(6)
        self.refinement = UNet(8) if with_refinement else None

    def restrict(self, coarse_codes: Tensor, fine_codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Restricted features of both grids, and the object-specific drawing."""
        coarse = self.coarse_restriction(coarse_codes)
        fine = self.fine_restriction(fine_codes)
        _, coarse_nearest = self.discrete.coarse_codebook(coarse)
        _, fine_nearest = self.discrete.fine_codebook(fine)
        return coarse, fine, self.object_decoder(self.discrete.joined(coarse_nearest, fine_nearest))

    def forward(self, image: Tensor) -> Result:
        discrete = self.discrete
        shared = discrete.fine_encoder(image)
        coarse_indices, coarse_codes = discrete.coarse_codebook(discrete.to_coarse(discrete.coarse_encoder(shared)))
        fine_indices, fine_codes = discrete.fine_codebook(discrete.fine_features(shared, coarse_codes))
        _, _, object_image = self.restrict(coarse_codes, fine_codes)
        general_image = discrete.decoder(discrete.joined(coarse_codes, fine_codes))
        first = torch.softmax(self.detection(torch.cat((object_image, general_image), dim=1)), dim=1)
        final = first
        if self.refinement is not None:
            final = torch.softmax(self.refinement(torch.cat((object_image, general_image, first), dim=1)), dim=1)
        means = F.avg_pool2d(first[:, 1:], 21, stride=1, padding=10)
        score = means.flatten(1).max(dim=1).values
        return Result(final[:, 1], first[:, 1], score, object_image, general_image, coarse_indices, fine_indices)


class Defects(NamedTuple):
    """Codes with defects and without, (B, D, H/8, W/8) and (B, D, H/4, W/4), and the mask (B, H, W) they are at."""

    coarse_codes: Tensor
    fine_codes: Tensor
    clean_coarse: Tensor
    clean_fine: Tensor
    mask: Tensor


def other_codes(book: Quantizer, features: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """For every cell another code: all K distances sorted, one of the ranks [0.05 K, strength K + 1) drawn.

    features (B, D, h, w), strength (B,) -> (B, D, h, w). Image by image, on the CPU.
    """
    vectors = book.vectors.cpu()
    rows = features.permute(0, 2, 3, 1).cpu()
    found = torch.empty_like(rows)
    for index, cells in enumerate(rows.flatten(1, 2)):
        squares = cells.square().sum(1, keepdim=True) + vectors.square().sum(1)
        order = (squares - 2 * torch.matmul(cells, vectors.t())).argsort(dim=1)
        first = int(0.05 * CODES)
        last = min(int(strength[index] * CODES) + 1, CODES - 1)
        ranks = torch.randint(first, last + 1, (len(cells), 1), generator=generator)
        found[index] = vectors[order.gather(1, ranks).squeeze(1)].view(found[index].shape)
    return found.permute(0, 3, 1, 2).to(features.device)


class TrainingStep:
    """Stage 2, one step at a time: restriction, object decoder and detection learn; the discrete model is frozen."""

    def __init__(self, model: Transcription, generator: torch.Generator) -> None:
        self.model, self.generator = model, generator
        model.discrete.requires_grad_(False)
        parts = (model.coarse_restriction, model.fine_restriction, model.object_decoder, model.detection)
        self.optimizer = torch.optim.Adam([{"params": part.parameters()} for part in parts], lr=2e-4)

    @torch.no_grad()
    def defects(self, image: Tensor, mask: Tensor) -> Defects:
        """Good images (B, 3, H, W) and masks (B, H, W) bool -> codes altered under the masks."""
        discrete, count = self.model.discrete, len(image)
        drawn = torch.rand(4, count, generator=self.generator)
        strength = 0.2 + 0.8 * drawn[:2]
        both, coarse_alone = (drawn[2] < 0.5).to(image.device), (drawn[3] < 0.5).to(image.device)
        use_coarse = (both | coarse_alone).view(-1, 1, 1, 1)
        use_fine = (both | ~coarse_alone).view(-1, 1, 1, 1)
        at_coarse = F.max_pool2d(mask.float().unsqueeze(1), 8)
        at_fine = F.max_pool2d(mask.float().unsqueeze(1), 4)

        shared = discrete.fine_encoder(image)
        coarse_features = discrete.to_coarse(discrete.coarse_encoder(shared))
        _, clean_coarse = discrete.coarse_codebook(coarse_features)
        others = other_codes(discrete.coarse_codebook, coarse_features, strength[0], self.generator)
        coarse = torch.where((at_coarse > 0) & use_coarse, others, clean_coarse)

        fine_features = discrete.fine_features(shared, clean_coarse)
        _, clean_fine = discrete.fine_codebook(fine_features)
        # With both grids altered, the fine codes follow the altered coarse ones before they are altered in turn.
        again_features = discrete.fine_features(shared, coarse)
        _, again = discrete.fine_codebook(again_features)
        chain = both.view(-1, 1, 1, 1)
        start, start_features = torch.where(chain, again, clean_fine), torch.where(chain, again_features, fine_features)
        others = other_codes(discrete.fine_codebook, start_features, strength[1], self.generator)
        fine = torch.where((at_fine > 0) & use_fine, others, start)

        target = torch.where(
            use_coarse, F.interpolate(at_coarse, scale_factor=8), F.interpolate(at_fine, scale_factor=4)
        )
        return Defects(coarse, fine, clean_coarse, clean_fine, target.squeeze(1))

    def losses(self, image: Tensor, sample: Defects) -> dict[str, Tensor]:
        """The four losses before weighting: coarse, fine, image, focal."""
        model = self.model
        coarse, fine, object_image = model.restrict(sample.coarse_codes, sample.fine_codes)
        general_image = model.discrete.decoder(model.discrete.joined(sample.coarse_codes, sample.fine_codes))
        logits = model.detection(torch.cat((object_image.detach(), general_image.detach()), dim=1))
        return {
            "coarse": F.mse_loss(coarse, sample.clean_coarse),
            "fine": F.mse_loss(fine, sample.clean_fine),
            "image": F.mse_loss(object_image, image),
            "focal": focal_loss(torch.softmax(logits, dim=1), sample.mask),
        }

    def step(self, image: Tensor, mask: Tensor, sample: Defects | None = None) -> dict[str, float]:
        """One step on good images and masks; `sample` gives the defects instead of drawing them."""
        losses = self.losses(image, self.defects(image, mask) if sample is None else sample)
        loss = losses["coarse"] + losses["fine"] + 10 * losses["image"] + losses["focal"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {name: float(value.detach()) for name, value in losses.items()}


def focal_loss(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), gamma 2, labels smoothed by 1e-5: (B, 2, H, W), (B, H, W) -> mean."""
    target = torch.stack((1 - mask.float(), mask.float()), dim=1).clamp(1e-5, 1 - 1e-5)
    p = (target * probabilities).sum(1) + 1e-5
    return (-((1 - p) ** 2) * p.log()).mean()
