"""Bottleneck ResNets as segmentation uses them: dilated, the stride where the original put it."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxvos.layers.pooling import max_pool
from jaxvos.typing import DType

# PyTorch's constants; the quick variance E[x^2] - E[x]^2 would cancel where the mean is large.
BatchNorm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)


class Bottleneck(nn.Module):
    """One residual block 1x1 - 3x3 - 1x1: [B, h, w, C] -> [B, h', w', 4 * width].

    Attributes:
        stride_in_3x3: Whether the 3x3 carries the stride, as in torchvision; else the first 1x1
            does, as in the Caffe ResNets and the older DeepLab ports.
    """

    width: int
    stride: int = 1
    dilation: int = 1
    project: bool = False
    stride_in_3x3: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        d = self.dilation
        first, middle = (1, self.stride) if self.stride_in_3x3 else (self.stride, 1)
        y = conv(self.width, (1, 1), strides=first, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv(self.width, (3, 3), strides=middle, kernel_dilation=d, padding=d, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = norm(name="bn3")(conv(4 * self.width, (1, 1), name="conv3")(y))
        if self.project:
            x = conv(4 * self.width, (1, 1), strides=self.stride, name="project_conv")(x)
            x = norm(name="project_bn")(x)
        return nn.relu(x + y)


class Stage(nn.Module):
    """`depth` blocks, the first projects and strides: [B, h, w, C] -> [B, h', w', 4 * width].

    Attributes:
        remat: Keep only the blocks' inputs for the gradient and compute the insides again.
        scan: Compile the equal blocks once, as the body of a loop. The parameters are the same
            either way. It pays where compilation is dear (TPU pods); on CPU the gradient of a
            convolution inside a loop is an order of magnitude slower, so it is off by default.
    """

    depth: int
    width: int
    stride: int
    dilation: int
    remat: bool = False
    scan: bool = False
    stride_in_3x3: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        block = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        equal = partial(
            block,
            self.width,
            dilation=self.dilation,
            stride_in_3x3=self.stride_in_3x3,
            dtype=self.dtype,
        )
        x = equal(stride=self.stride, project=True, name="block0")(x, train)
        blocks = [equal(name=f"block{i}") for i in range(1, self.depth)]
        if self.scan and not self.is_initializing() and len(blocks) > 1:
            return _scanned(equal(parent=None), blocks, x, train)
        for each in blocks:
            x = each(x, train)
        return x


def _scanned(body: nn.Module, blocks: Sequence[nn.Module], x: jax.Array, train: bool) -> jax.Array:
    """Runs equal blocks as one loop over their stacked variables and hands the statistics back."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(b.variables for b in blocks))

    def step(x: jax.Array, variables: dict) -> tuple[jax.Array, dict]:
        return body.apply(variables, x, train, mutable=["batch_stats"] if train else [])

    x, changed = lax.scan(step, x, stacked)
    for i, block in enumerate(blocks):
        for name, value in changed.get("batch_stats", {}).items():
            block.put_variable("batch_stats", name, jax.tree.map(lambda leaf, i=i: leaf[i], value))
    return x


class ResNet(nn.Module):
    """A ResNet without its classifier: pictures [B, H, W, 3] -> features [B, h, w, 32 * width].

    7x7 convolution of stride 2, max pooling of stride 2 and four stages; with the strides
    (1, 2, 1, 1) and dilations (1, 1, 2, 4) of DeepLab the features are at 1/8 of the size.

    Attributes:
        depths: Blocks a stage: (3, 4, 23, 3) is ResNet-101.
        width: Channels of the stem; 64 in every published ResNet.
        ceil_pool: Whether the pooling keeps a last window that hangs over the edge.
        stride_in_3x3: Where a block's stride is (see `Bottleneck`); torchvision: True.
        every_stage: Whether to return the outputs of all stages, a tuple, instead of the last one.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    strides: Sequence[int] = (1, 2, 1, 1)
    dilations: Sequence[int] = (1, 1, 2, 4)
    ceil_pool: bool = True
    remat: bool = False
    scan: bool = False
    stride_in_3x3: bool = False
    every_stage: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array | tuple[jax.Array, ...]:
        conv = nn.Conv(
            self.width, (7, 7), strides=2, padding=3, use_bias=False, dtype=self.dtype, name="conv1"
        )
        x = conv(x)
        self.sow("intermediates", "conv1_out", x)
        x = nn.relu(BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn1")(x))
        x = max_pool(x, 3, 2, 1, ceil=self.ceil_pool)
        self.sow("intermediates", "pooled", x)
        outputs = []
        plan = zip(self.depths, self.strides, self.dilations, strict=True)
        for i, (depth, stride, dilation) in enumerate(plan):
            stage = Stage(
                depth,
                self.width * 2**i,
                stride,
                dilation,
                self.remat,
                self.scan,
                self.stride_in_3x3,
                self.dtype,
                name=f"layer{i + 1}",
            )
            x = stage(x, train)
            self.sow("intermediates", f"layer{i + 1}_out", x)
            outputs.append(x)
        return tuple(outputs) if self.every_stage else x
