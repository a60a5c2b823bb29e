"""Object-specific decoder: draws the part as it should be from restricted codes (DSR §3.2; Zavrtanik et al. 2022).

The paper's network. It passes through 1/16 of the image and a narrow middle, so that it cannot copy codes to pixels.

Axes: B images, D code length, H, W rows and columns of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flawmap.model.blocks import ConvPair, ResidualStack


class ObjectDecoder(nn.Module):
    """Upsampled coarse codes and fine codes (B, 2D, H/4, W/4) -> image (B, 3, H, W), no output activation.

    `inputs` is 2D; `widths` are the channels at 1/4, 1/8 and 1/16 of the image, `middle` those of the narrowest place,
    `width` and `hidden` those of the residual stack on the way back. Image sides must be multiples of 16.
    """

    def __init__(
        self,
        inputs: int = 256,
        widths: tuple[int, int, int] = (256, 512, 1024),
        middle: int = 64,
        width: int = 128,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.down1 = ConvPair(inputs, first, second)
        self.down2 = ConvPair(second, second, third)
        self.narrow = nn.Conv2d(third, middle, 1)
        self.up1 = nn.ConvTranspose2d(middle, middle, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(middle, middle, 4, stride=2, padding=1)
        self.conv = nn.Conv2d(middle, width, 3, padding=1)
        self.residual = ResidualStack(width, hidden)
        self.up3 = nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1)
        self.up4 = nn.ConvTranspose2d(width // 2, 3, 4, stride=2, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """(B, 2D, H/4, W/4) -> (B, 3, H, W)."""
        x = nn.functional.max_pool2d(self.down1(codes), 2)  # (B, widths[1], H/8, W/8)
        x = nn.functional.max_pool2d(self.down2(x), 2)  # (B, widths[2], H/16, W/16)
        x = torch.relu(self.up1(self.narrow(x)))
        x = torch.relu(self.up2(x))  # (B, middle, H/4, W/4)
        x = torch.relu(self.up3(self.residual(self.conv(x))))
        image: Tensor = self.up4(x)
        return image
