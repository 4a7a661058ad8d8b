"""RAFT: optical flow by looking, again and again, at the correlation around where it points.

Teed, Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020. A feature
encoder sees both pictures at 1/8 of their size, a context encoder the first alone. From no flow on,
each iteration reads the correlation of all pairs of places around where the flow points, and a
ConvGRU corrects the flow; what comes out is enlarged by weights that the network gives.

Where the released code says more than the paper, this is the code: the first ReLU of a block's sum,
windows whose first axis is x, coordinates without a gradient from iteration to iteration, the
upsampling mask times 1/4. The small network has bottlenecks, no norm in its context encoder, one
GRU of 3 x 3 and bilinear enlargement.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.layers.correlation import averaged, lookup, on_demand, volume
from jaxvos.layers.recurrent import ConvGRUCell, unrolled
from jaxvos.layers.resize import bilinear
from jaxvos.layers.resnet import BatchNorm
from jaxvos.typing import DType

STRIDE = 8
LEAST = 128
"""Pictures are padded to so many pixels a side: below, a level of the correlation is a place."""
# He's, by outputs, as the released encoders begin.
HE_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's default for convolutions: uniform within 1 / sqrt(inputs).
TORCH_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def prepare(pictures: jax.Array) -> jax.Array:
    """Pictures [..., H, W, 3] RGB in 0..255 -> -1..1 float32."""
    return 2 * (pictures.astype(jnp.float32) / 255) - 1


class Norm(nn.Module):
    """ "batch", "instance" (each picture and channel by itself, no parameters) or None."""

    kind: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind == "batch":
            return BatchNorm(use_running_average=not train, dtype=x.dtype, name="batch")(x)
        if self.kind == "instance":
            wide = x.astype(jnp.float32)
            mean = wide.mean(axis=(-3, -2), keepdims=True)
            variance = jnp.square(wide - mean).mean(axis=(-3, -2), keepdims=True)
            return ((wide - mean) * jax.lax.rsqrt(variance + 1e-5)).astype(x.dtype)
        return x


class Block(nn.Module):
    """A residual block, two 3x3 or, `narrow`, 1x1 - 3x3 - 1x1: [B, h, w, C] -> [B, ..., width]."""

    width: int
    stride: int
    norm: str | None
    narrow: bool
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, kernel_init=HE_INIT, dtype=self.dtype)
        if self.narrow:
            inner = self.width // 4
            plan = ((inner, 1, 1), (inner, 3, self.stride), (self.width, 1, 1))
        else:
            plan = ((self.width, 3, self.stride), (self.width, 3, 1))
        y = x
        for i, (width, side, stride) in enumerate(plan, 1):
            y = conv(width, (side, side), stride, padding=side // 2, name=f"conv{i}")(y)
            y = nn.relu(Norm(self.norm, name=f"norm{i}")(y, train))
        if self.stride > 1:
            x = conv(self.width, (1, 1), self.stride, name="project_conv")(x)
            x = Norm(self.norm, name="project_norm")(x, train)
        return nn.relu(x + y)


class Encoder(nn.Module):
    """Pictures [B, H, W, 3] -> features [B, H / 8, W / 8, features]."""

    features: int
    widths: Sequence[int]
    norm: str | None
    narrow: bool
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, kernel_init=HE_INIT, dtype=self.dtype)
        x = conv(self.widths[0], (7, 7), 2, padding=3, name="conv1")(x)
        x = nn.relu(Norm(self.norm, name="norm1")(x, train))
        for i, width in enumerate(self.widths, 1):
            for j in range(2):
                stride = 2 if i > 1 and j == 0 else 1
                block = Block(
                    width, stride, self.norm, self.narrow, self.dtype, name=f"layer{i}_{j}"
                )
                x = block(x, train)
            self.sow("intermediates", f"layer{i}_out", x)
        return conv(self.features, (1, 1), name="conv2")(x)


class Update(nn.Module):
    """One iteration: the state [B, h, w, C] and the flow's change [B, h, w, 2]."""

    small: bool
    hidden: int
    dtype: DType | None

    def setup(self) -> None:
        conv = partial(nn.Conv, kernel_init=TORCH_INIT, dtype=self.dtype)
        same = partial(conv, kernel_size=(3, 3), padding=1)
        gru = partial(
            ConvGRUCell, self.hidden, state_first=True, kernel_init=TORCH_INIT, dtype=self.dtype
        )
        self.flow1 = conv(64 if self.small else 128, (7, 7), padding=3)
        self.flow2 = same(32 if self.small else 64)
        self.correlation1 = conv(96 if self.small else 256, (1, 1))
        self.joined = same(80 if self.small else 126)
        self.head1 = same(128 if self.small else 256)
        self.head2 = same(2)
        if self.small:
            self.gru = gru()
        else:
            self.correlation2 = same(192)
            self.gru1, self.gru2 = gru(kernel=(1, 5)), gru(kernel=(5, 1))
            self.mask1, self.mask2 = same(256), conv(576, (1, 1))

    def __call__(
        self,
        state: jax.Array,
        context: jax.Array,
        seen: jax.Array,
        flow: jax.Array,
        held: Sequence[Sequence[jax.Array]] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        motion = self.motion(seen, flow)
        if held is None:
            x = jnp.concatenate([context, motion], axis=-1)
            for gru in self.grus:
                state = gru(state, x)
        else:
            for gru, of_context in zip(self.grus, held, strict=True):
                state = gru(state, motion, of_context)
        change = self.head2(nn.relu(self.head1(state))).astype(jnp.float32)
        self.sow("intermediates", "steps", (seen, motion, state, change))
        return state, change

    @property
    def grus(self) -> tuple[ConvGRUCell, ...]:
        """The cells that the state goes through, one after the other."""
        return (self.gru,) if self.small else (self.gru1, self.gru2)

    def held(self, context: jax.Array) -> list[list[jax.Array]]:
        """What the context gives the gates of each cell: the same in every iteration."""
        return [gru.held(context) for gru in self.grus]

    def motion(self, seen: jax.Array, flow: jax.Array) -> jax.Array:
        """What correlation and flow tell, the flow itself last: [B, h, w, 82 or 128]."""
        c = nn.relu(self.correlation1(seen))
        c = c if self.small else nn.relu(self.correlation2(c))
        f = nn.relu(self.flow2(nn.relu(self.flow1(flow))))
        joined = nn.relu(self.joined(jnp.concatenate([c, f], axis=-1)))
        return jnp.concatenate([joined, flow.astype(joined.dtype)], axis=-1)

    def mask(self, state: jax.Array) -> jax.Array:
        """Logits [B, h, w, 576] of the convex enlargement."""
        return 0.25 * self.mask2(nn.relu(self.mask1(state))).astype(jnp.float32)

    def enlarged(self, state: jax.Array, flow: jax.Array) -> jax.Array:
        """Flow [B, h, w, 2] in pixels of 1/8 -> [B, H, W, 2] in pixels."""
        height, width = (STRIDE * side for side in flow.shape[1:3])
        if self.small:
            return STRIDE * bilinear(flow, (height, width), align_corners=True)
        weights = self.mask(state)
        self.sow("intermediates", "mask", weights)
        weights = weights.reshape(*flow.shape[:3], 9, STRIDE, STRIDE)
        padded = jnp.pad(STRIDE * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
        around = jnp.stack(
            [
                padded[:, y : y + flow.shape[1], x : x + flow.shape[2]]
                for y in range(3)
                for x in range(3)
            ],
            axis=3,
        )
        fine = jnp.einsum("bhwkyx,bhwkc->bhywxc", nn.softmax(weights, axis=3), around)
        return fine.reshape(-1, height, width, 2)


class RAFT(nn.Module):
    """The network; flow in pixels (x, y) of the pictures, float32.

    Attributes:
        small: The small network, of a fifth of the parameters.
        iterations: Corrections of the flow: 12 in training, 20 to 32 at test.
        on_demand: Compute correlations when they are looked at instead of keeping all pairs.
        freeze_norm: Keep the context encoder's BatchNorm as it is in training, as all of the
            released stages but the first do.
        dtype: What the layers compute in; flow, gates and correlations are float32.
    """

    small: bool = False
    iterations: int = 12
    on_demand: bool = False
    freeze_norm: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        self.hidden, self.context = (96, 64) if self.small else (128, 128)
        widths = (32, 64, 96) if self.small else (64, 96, 128)
        encoder = partial(Encoder, widths=widths, narrow=self.small, dtype=self.dtype)
        self.fnet = encoder(128 if self.small else 256, norm="instance")
        self.cnet = encoder(self.hidden + self.context, norm=None if self.small else "batch")
        self.update = Update(self.small, self.hidden, self.dtype)

    @property
    def radius(self) -> int:
        """Of a window of the correlation."""
        return 3 if self.small else 4

    def __call__(
        self, frames: jax.Array, initial: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """The flow after each iteration, [B, iterations, H, W, 2], from the first to the second.

        Args:
            frames: Prepared pictures [B, 2, H, W, 3], sides multiples of 8.
            initial: [B, H / 8, W / 8, 2] to begin with, in pixels of 1/8; none is none.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        batch, _, *picture = frames.shape
        both = self.features(frames.reshape(2 * batch, *picture), train)
        a, b = jnp.split(both.reshape(batch, 2, *both.shape[1:]), 2, axis=1)
        state = self.cnet(frames[:, 0], train and not self.freeze_norm)
        return self.refine(a[:, 0], b[:, 0], state, initial, every=True)[1]

    def features(self, pictures: jax.Array, train: bool = False) -> jax.Array:
        """What is correlated: [B, h, w, C] of prepared pictures [B, H, W, 3]."""
        return self.fnet(pictures, train)

    def encode(self, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What a frame of a video is to both its neighbours: features and context, once a frame."""
        return self.features(pictures), self.cnet(pictures, False)

    def refine(
        self,
        a: jax.Array,
        b: jax.Array,
        context: jax.Array,
        initial: jax.Array | None = None,
        *,
        every: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """(flow [B, h, w, 2] at 1/8; that at full size, [B, H, W, 2], of `every` [B, I, H, W, 2]).

        Args:
            a: Features of the first pictures.
            b: Features of the second ones.
            context: The context encoder's output of the first ones.
            initial: As in the call.
            every: Enlarge the flow after every iteration, not only after the last.
        """
        if self.on_demand:
            pyramid, read = averaged(b), partial(on_demand, a)
        else:
            pyramid, read = volume(a, b), lookup
        for i, level in enumerate(pyramid):
            self.sow("intermediates", f"pyramid{i}", level)
        state, inputs = jnp.split(context, [self.hidden], axis=-1)
        state, inputs = jnp.tanh(state), nn.relu(inputs)
        zero = jnp.broadcast_to(_grid(a.shape[1:3]), (*a.shape[:3], 2))
        start = zero if initial is None else zero + initial

        def step(update: Update, carry: tuple, _: None) -> tuple[tuple, jax.Array | None]:
            state, places = carry
            places = jax.lax.stop_gradient(places)
            seen = read(pyramid, places, self.radius)
            state, change = update(state, inputs, seen, places - zero, held)
            places = places + change
            return (state, places), update.enlarged(state, places - zero) if every else None

        carry = (state, start)
        held = None
        if self.is_initializing():
            step(self.update, carry, None)
        elif not every:  # a third of the cells' work is the same in every iteration
            held = self.update.held(inputs)
        loop = nn.scan(
            step,
            variable_broadcast="params",
            variable_axes={"intermediates": 0},
            split_rngs={"params": False},
            length=self.iterations,
            unroll=unrolled(self.iterations) if every else 1,
        )
        (state, places), flows = loop(self.update, carry, None)
        flow = places - zero
        return flow, jnp.moveaxis(flows, 0, 1) if every else self.update.enlarged(state, flow)


def _grid(size: tuple[int, int]) -> jax.Array:
    """Places [1, h, w, 2] (x, y)."""
    y, x = jnp.meshgrid(*(jnp.arange(side, dtype=jnp.float32) for side in size), indexing="ij")
    return jnp.stack([x, y], axis=-1)[None]


def padding(
    size: tuple[int, int], *, top: bool = True, least: int = LEAST
) -> tuple[tuple[int, int], tuple[int, int]]:
    """How much to add ((above, below), (left, right)) to a picture (H, W): multiples of 8.

    Args:
        size: (H, W).
        top: Half of the rows above ("sintel"); False adds all below ("kitti").
        least: Sides come out at least so long.
    """
    height, width = (max(-(-side // STRIDE) * STRIDE, least) - side for side in size)
    above = height // 2 if top else 0
    return (above, height - above), (width // 2, width - width // 2)


def padded(picture: np.ndarray, pads: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """A picture [H, W, 3] with its edges repeated."""
    return np.pad(picture, (*pads, (0, 0)), mode="edge")
