"""The ResNet of PSPNet (Zhao et al., CVPR 2017): a stem of three 3x3 convolutions, output stride 8.

Its BatchNorm is frozen in the networks built on it: running statistics are used in training too.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxvos.layers.pooling import max_pool
from jaxvos.layers.resnet import BatchNorm, Stage
from jaxvos.typing import DType

_DEEPEST = 36  # blocks of a stage, in a ResNet-152
_PARTS = {"1x1_reduce": ("conv1", "bn1"), "3x3": ("conv2", "bn2"), "1x1_increase": ("conv3", "bn3")}
_PARTS |= {"1x1_proj": ("project_conv", "project_bn")}

NAMES = (
    (r"conv1_(\d)_3x3(?:_s2)?", r"stem_conv\1"),
    (r"conv1_(\d)_3x3(?:_s2)?/bn", r"stem_bn\1"),
    *(
        (rf"conv([2-5])_{block}_{theirs}{suffix}", rf"stage\1/block{block - 1}/{ours}")
        for block in range(1, _DEEPEST + 1)
        for theirs, modules in _PARTS.items()
        for suffix, ours in zip(("", "/bn"), modules, strict=True)
    ),
)
"""Caffe's layers, which count blocks from 1 -> modules of `PSPResNet`; for `torch_import.fill`."""

HEADS = (r"(?!conv[1-5]_\d+_(3x3|1x1_)).*",)
"""What else a published PSPNet holds; for `torch_import.fill` to leave aside."""


def names_under(path: str) -> tuple[tuple[str, str], ...]:
    """`NAMES` with our modules under the module path `path`."""
    return tuple((theirs, f"{path}/{ours}") for theirs, ours in NAMES)


def map_size(picture: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the features of a picture of (H, W) pixels, about an eighth."""
    halves = (-(-n // 2) for n in picture)
    h, w = (-(-(n // 2 + 1) // 2) for n in halves)  # pooling keeps a window over the edge
    return h, w


class ConvNormReLU(nn.Module):
    """A convolution without bias, BatchNorm, ReLU: [B, H, W, C] -> [B, H', W', features].

    Padding keeps the size but for the stride.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            kernel_dilation=self.dilation,
            padding=self.dilation * (self.kernel // 2),
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="conv",
        )(x)
        norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn")
        return nn.relu(norm(x))


class PSPResNet(nn.Module):
    """Pictures [B, H, W, 3] -> features [B, h, w, 32 * width] at 1/8 of the size (`map_size`).

    Attributes:
        depths: Blocks of the stages 2 to 5; (3, 4, 6, 3) is ResNet-50.
        width: Half the stem's channels (published: 64).
        stride_in_3x3: Whether a block's stride is in its 3x3 convolution, else in its first 1x1.
        remat: Compute the blocks' insides again for the gradient instead of keeping them.
        dtype: What the layers compute in.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    stride_in_3x3: bool = False
    remat: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, (features, stride) in enumerate(((1, 2), (1, 1), (2, 1)), 1):
            x = nn.Conv(
                features * self.width,
                (3, 3),
                strides=stride,
                padding=1,
                use_bias=False,
                dtype=self.dtype,
                name=f"stem_conv{i}",
            )(x)
            norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name=f"stem_bn{i}")
            x = nn.relu(norm(x))
        x = max_pool(x, 3, 2, 1, ceil=True)
        self.sow("intermediates", "pooled", x)
        plan = zip(self.depths, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        for i, (depth, stride, dilation) in enumerate(plan):
            x = Stage(
                depth,
                self.width * 2**i,
                stride,
                dilation,
                remat=self.remat,
                stride_in_3x3=self.stride_in_3x3,
                dtype=self.dtype,
                name=f"stage{i + 2}",
            )(x, train)
            self.sow("intermediates", f"stage{i + 2}_out", x)
        return x
