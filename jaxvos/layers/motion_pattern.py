"""An encoder and decoder that sees in a field of flow what moves by itself, and its loss."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.layers.resize import bilinear
from jaxvos.layers.resnet import BatchNorm
from jaxvos.losses import cross_entropy
from jaxvos.typing import DType

SMALLEST = 32
# PyTorch's default: uniform within 1 / sqrt(inputs).
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Block(nn.Module):
    """Convolution, BatchNorm, ReLU: [B, h, w, C] -> [B, h, w, features]."""

    features: int
    kernel: int
    epsilon: float
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            padding=self.kernel // 2,
            kernel_init=UNIFORM,
            dtype=self.dtype,
            name="conv",
        )
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype, name="bn")
        return nn.relu(norm(epsilon=self.epsilon)(conv(x)))


class MotionPattern(nn.Module):
    """Logits [B, H // 2, W // 2, 1] float32 of independent motion, from pictures of flow.

    Six levels down, each half as large as the one before (rounded down), and four steps up, each
    brought to the size of the level that it is joined with: any size from 32 x 32 on will do.

    Attributes:
        width: Channels of the first level; the others have 2, 4, 4, ... times as many, the last
            step up 8 times.
        dtype: What the layers compute in; parameters and logits stay float32.
    """

    width: int = 64
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The logits of encoded flow [B, H, W, 2] (`flow_pictures.angle_magnitude`)."""
        if min(x.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"A field of {x.shape[1]} x {x.shape[2]} places cannot be halved five times: it "
                f"takes {SMALLEST} x {SMALLEST} at least."
            )

        def block(name: str, x: jax.Array, wider: int, kernel: int = 3) -> jax.Array:
            # One level of the released network was made with another constant.
            epsilon = 1e-4 if name == "enc1" else 1e-5
            return Block(self.width * wider, kernel, epsilon, self.dtype, name=name)(x, train)

        x = block("enc1", x, 1, 7)
        self.sow("intermediates", "enc1_out", x)
        x = s1 = self._kept("s1", block("enc2", _halved(x), 2, 5))
        x = s2 = self._kept("s2", block("enc3", _halved(x), 4, 5))
        x = s3 = self._kept("s3", block("enc4b", block("enc4a", _halved(x), 4), 4))
        x = s4 = self._kept("s4", block("enc5", _halved(x), 4))
        x = self._kept("s5", block("enc6", _halved(x), 4))
        for step, (level, wider) in enumerate(((s4, 4), (s3, 4), (s2, 4), (s1, 8)), 1):
            x = bilinear(x, level.shape[1:3], align_corners=True)
            x = block(f"dec{step}a", jnp.concatenate([x, level], axis=-1), 4)
            x = self._kept(f"up{step}", block(f"dec{step}b", x, wider))
        score = nn.Conv(1, (1, 1), kernel_init=UNIFORM, dtype=self.dtype, name="score")
        return score(x).astype(jnp.float32)

    def _kept(self, name: str, x: jax.Array) -> jax.Array:
        self.sow("intermediates", name, x)
        return x


def _halved(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), (2, 2))


def between_frames(flow: jax.Array) -> jax.Array:
    """Clips' flow [B, T, H, W, 2] without the last frame's, which only repeats the one before."""
    return flow[:, :-1] if flow.shape[1] > 1 else flow


def nearest(masks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Masks [..., H, W, 1] at `size` (h, w): place i of h has that of place i H / h, rounded down.

    So did Torch7, and so does PyTorch's "nearest".
    """
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, masks.shape[-3:-1], strict=True)
    )
    return masks[..., rows, :, :][..., columns, :]


def motion_loss(logits: jax.Array, masks: jax.Array) -> jax.Array:
    """Mean cross entropy of logits [..., h, w, 1] with masks [..., H, W, 1] of what moves."""
    return cross_entropy(logits, nearest(masks, logits.shape[-3:-1]))


NAMES = (
    (r"(enc\d[ab]?|dec\d[ab])\.(conv|bn)", r"\1/\2"),
    (r"score", r"score"),
)
"""What the levels and steps are called in files of weights -> `MotionPattern`."""
