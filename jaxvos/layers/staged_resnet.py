"""A ResNet that is gone through stage by stage, for networks that change what is in between."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxvos.layers.pooling import max_pool
from jaxvos.layers.resnet import BatchNorm, Stage
from jaxvos.typing import DType


class StagedResNet(nn.Module):
    """torchvision's ResNet without its classifier; its variables are those of `resnet.ResNet`.

    Attributes:
        depths: Blocks a stage: (3, 4, 23, 3) is ResNet-101.
        width: Channels of the stem; 64 in every published ResNet.
        strides: Of the stages, after the stem's 4.
        dilations: Of the stages.
        remat: Keep only the blocks' inputs for the gradient and compute the insides again.
        dtype: What the layers compute in.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    strides: Sequence[int] = (1, 2, 2, 2)
    dilations: Sequence[int] = (1, 1, 1, 1)
    remat: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        self.conv1 = nn.Conv(
            self.width, (7, 7), strides=2, padding=3, use_bias=False, dtype=self.dtype
        )
        self.bn1 = BatchNorm(dtype=self.dtype)
        plan = zip(self.depths, self.strides, self.dilations, strict=True)
        for i, (depth, stride, dilation) in enumerate(plan):
            stage = Stage(
                depth,
                self.width * 2**i,
                stride,
                dilation,
                remat=self.remat,
                stride_in_3x3=True,
                dtype=self.dtype,
            )
            setattr(self, f"layer{i + 1}", stage)

    def stem(self, pictures: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, 3] -> [B, h, w, width], at a quarter of the size."""
        x = nn.relu(self.bn1(self.conv1(pictures), use_running_average=not train))
        return max_pool(x, 3, 2, 1, ceil=False)

    def stage(self, number: int, x: jax.Array, train: bool) -> jax.Array:
        """Stage `number`, from 1 on: [B, h, w, C] -> [B, h', w', 4 * width * 2**(number - 1)]."""
        return getattr(self, f"layer{number}")(x, train)
