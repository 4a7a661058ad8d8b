"""DeepLab v3 without its classifier, on a ResNet as torchvision has it."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxvos.layers.deeplab import ASPP
from jaxvos.layers.resnet import ResNet
from jaxvos.typing import DType


class DeepLabV3(nn.Module):
    """Pictures [B, H, W, 3] -> features [B, h, w, branch] at 1/8 of the size.

    Attributes:
        depths: Blocks of the ResNet's stages; (3, 4, 23, 3) is ResNet-101.
        width: The ResNet's stem channels (64 in every published one).
        branch: Channels of an ASPP branch, and of the features.
        rates: Dilations of the ASPP.
        remat: Compute the insides again for the gradient instead of keeping them.
        dtype: What the layers compute in; parameters stay float32.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    branch: int = 256
    rates: Sequence[int] = (12, 24, 36)
    remat: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        resnet = ResNet(
            self.depths,
            self.width,
            ceil_pool=False,
            remat=self.remat,
            stride_in_3x3=True,
            dtype=self.dtype,
            name="resnet",
        )
        aspp = nn.remat(ASPP, static_argnums=(2,)) if self.remat else ASPP
        aspp = aspp(self.branch, self.branch, self.rates, dtype=self.dtype, name="aspp")
        return aspp(resnet(x, train), train)
