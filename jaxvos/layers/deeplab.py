"""DeepLab v3 as the COSNet family has it: encoder, its published names, and the head on top."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.layers.resnet import BatchNorm, ResNet
from jaxvos.typing import DType


class ASPP(nn.Module):
    """Looks at a map at several scales at once: [B, h, w, C] -> [B, h, w, features].

    Branches in the order in which they are joined: the picture's mean, 1x1, one 3x3 a rate; then a
    3x3 fusion and a PReLU with one slope. Every convolution has a bias beside its BatchNorm.
    """

    branch: int = 512
    features: int = 256
    rates: Sequence[int] = (6, 12, 18)
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        mean = nn.relu(norm(name="bn_x")(conv(self.branch, (1, 1), name="conv")(mean)))
        branches = [jnp.broadcast_to(mean, (*x.shape[:3], self.branch))]
        branches += [nn.relu(norm(name="bn_0")(conv(self.branch, (1, 1), name="conv2d_0")(x)))]
        for i, rate in enumerate(self.rates, 1):
            seen = conv(
                self.branch, (3, 3), kernel_dilation=rate, padding=rate, name=f"conv2d_{i}"
            )(x)
            branches.append(nn.relu(norm(name=f"bn_{i}")(seen)))
        joined = jnp.concatenate(branches, axis=-1)
        fused = conv(self.features, (3, 3), padding=1, name="bottleneck")(joined)
        return nn.PReLU(negative_slope_init=0.25, name="prelu")(norm(name="bn")(fused))


class Encoder(nn.Module):
    """Dilated ResNet and ASPP: pictures [B, H, W, 3] -> features and logits of them alone.

    Attributes:
        depths: Blocks of the ResNet's stages.
        width: The ResNet's stem channels.
        strides: Of the ResNet's stages.
        branch: Channels of an ASPP branch.
        features: Channels of the features.
        remat: Compute the insides again for the gradient instead of keeping them.
        scan: Compile equal residual blocks once.
        dtype: What the layers compute in.
    """

    depths: Sequence[int]
    width: int
    strides: Sequence[int]
    branch: int
    features: int
    remat: bool
    scan: bool
    dtype: DType | None

    def setup(self) -> None:
        self.resnet = ResNet(
            self.depths,
            self.width,
            self.strides,
            remat=self.remat,
            scan=self.scan,
            every_stage=True,
            dtype=self.dtype,
        )
        aspp = nn.remat(ASPP, static_argnums=(2,)) if self.remat else ASPP
        self.layer5 = aspp(self.branch, self.features, dtype=self.dtype)
        self.main_classifier = nn.Conv(1, (1, 1), dtype=self.dtype)

    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Features [B, h, w, C] and logits [B, h, w, 1]."""
        features = self.look(x, train)[0]
        return features, self.classify(features)

    def look(self, x: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Features [B, h, w, C] and the outputs of the ResNet's stages."""
        stages = self.resnet(x, train)
        return self.layer5(stages[-1], train), stages

    def classify(self, features: jax.Array) -> jax.Array:
        """Logits [B, h, w, 1] of features [B, h, w, C]."""
        return self.main_classifier(features)


class JoinedHead(nn.Module):
    """Decides on two maps [B, h, w, C] of a frame, joined: logits [B, h, w, 1]."""

    features: int
    std: float
    dtype: DType | None

    @nn.compact
    def __call__(self, found: jax.Array, own: jax.Array, train: bool) -> jax.Array:
        joined = jnp.concatenate([found, own], axis=-1)
        conv = partial(nn.Conv, kernel_init=nn.initializers.normal(self.std), dtype=self.dtype)
        norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn")
        x = conv(self.features, (3, 3), padding=1, use_bias=False, name="conv")(joined)
        return conv(1, (1, 1), name="classifier")(nn.relu(norm(x)))


ENCODER_NAMES = (
    (r"encoder\.(conv1|bn1)", r"encoder/resnet/\1"),
    (
        r"encoder\.layer([1-4])\.(\d+)\.downsample\.0",
        r"encoder/resnet/layer\1/block\2/project_conv",
    ),
    (r"encoder\.layer([1-4])\.(\d+)\.downsample\.1", r"encoder/resnet/layer\1/block\2/project_bn"),
    (r"encoder\.layer([1-4])\.(\d+)\.(\w+)", r"encoder/resnet/layer\1/block\2/\3"),
    (r"encoder\.layer5\.(\w+)", r"encoder/layer5/\1"),
    (r"encoder\.main_classifier", r"encoder/main_classifier"),
)
"""Published modules -> those of `Encoder`, under the module path "encoder"."""
