"""ConvLSTM and ConvGRU along time, forwards, backwards and both.

Sequences are [B, T, H, W, C]. What depends on the input alone is convolved for all frames at once;
the loop over time (`over_time`) holds the convolution of the state and the gates. `*` is a
convolution with zero padding, `.` a product of elements.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.typing import DType

LSTMState = tuple[jax.Array, jax.Array]
"""(hidden state h, cell state c), each [B, H, W, C]."""

MOST_UNROLLED = 16
"""Steps of a loop that a CPU takes without one; more would take long to compile."""


def over_time(
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    module: nn.Module,
    state: Any,
    inputs: Any,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """The last state and the stacked outputs [B, T, ...] of a step taken once a frame.

    Args:
        step: (module, state, the frame's inputs) -> (new state, output).
        module: What the step calls; all else that has variables must be reached through it. Its
            parameters are shared by all steps; BatchNorm's statistics go from step to step, and
            are what they were if the caller does not let them change; dropout draws anew.
        state: What step 0 starts from; its types and shapes must stay.
        inputs: A tree of arrays [B, T, ...].
        reverse: From the last frame to the first. Outputs stay in the frames' order.
    """
    if module.is_initializing():  # statistics that are carried have to be there before the loop
        step(module, state, jax.tree.map(lambda leaf: leaf[:, 0], inputs))
    moving = module.is_mutable_collection("batch_stats")
    count = jax.tree.leaves(inputs)[0].shape[1]
    loop = nn.scan(
        step,
        variable_broadcast="params" if moving else ("params", "batch_stats"),
        variable_carry="batch_stats" if moving else False,
        split_rngs={"params": False, "dropout": True},
        in_axes=1,
        out_axes=1,
        reverse=reverse,
        unroll=unrolled(count),
    )
    return loop(module, state, inputs)


def unrolled(count: int) -> int:
    """How many of a loop's `count` steps are compiled one after the other, without a loop.

    On a CPU all of a short loop's: a gradient takes there nine times as long within one.
    """
    return count if count <= MOST_UNROLLED and jax.default_backend() == "cpu" else 1


class ConvLSTM(nn.Module):
    """A ConvLSTM: [B, T, H, W, C] -> hidden states [B, T, H, W, features].

    With z = x_t * Wx + (k_t h') * Wh + b in the order i, f, o, g and h', c' the states before,

        i = s(z_i + p_i . c')    f = k_t s(z_f + p_f . c')    o = s(z_o + p_o . c")
        c = f . c' + i . tanh(z_g)                            h = o . tanh(c)

    Attributes:
        features: Channels of the states.
        kernel: Side of both convolutions.
        dilation: Of both convolutions.
        peephole: None for none; "shared" for one weight a place [H, W] where c" = c'; "full" for
            one a place and channel [H, W, features] where c" = c (Shi et al., NIPS 2015). Weights
            of places tie the layer to one size of map.
        kernel_init: Of both convolutions; the bias begins with 0.
        peephole_init: Of the three peepholes.
        dtype: What the convolutions compute in; gates and cell states are float32 at least.
    """

    features: int
    kernel: int = 3
    dilation: int = 1
    peephole: Literal["shared", "full"] | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    peephole_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        initial: LSTMState | None = None,
        markers: jax.Array | None = None,
        reverse: bool = False,
        cells: bool = False,
    ) -> jax.Array | LSTMState:
        """The hidden states, or (hidden states, cell states) if `cells`, in the frames' order.

        Args:
            x: [B, T, H, W, C].
            initial: The states (h, c) before the first step; zeros if None.
            markers: k [B, T], 0 where a sequence begins and 1 elsewhere; 1 everywhere if None. A
                0 cuts h' and the forget gate, not what the peepholes see.
            reverse: From the last frame to the first; `markers` stay in the frames' order.
            cells: Whether the cell states are wanted too.
        """
        conv = partial(
            nn.Conv,
            4 * self.features,
            (self.kernel, self.kernel),
            kernel_dilation=self.dilation,
            padding=_padding(self.kernel, self.dilation),
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        h_conv = conv(name="h_conv")
        bias = self.param("bias", nn.initializers.zeros, (4 * self.features,))
        z = conv(name="x_conv")(x)
        z = z + bias.astype(z.dtype).reshape(1, 1, 1, 1, -1)
        wide = jnp.promote_types(z.dtype, jnp.float32)
        peep_i, peep_f, peep_o = self._peepholes(z.shape[2:4], wide)

        def step(h_conv: nn.Module, state: LSTMState, inputs: tuple) -> tuple:
            h, c = state
            z, k = inputs
            k = k.reshape(-1, 1, 1, 1)
            z = z.astype(wide) + h_conv(k.astype(h.dtype) * h).astype(wide)
            z_i, z_f, z_o, z_g = jnp.split(z, 4, axis=-1)
            i, f = nn.sigmoid(z_i + peep_i * c), k * nn.sigmoid(z_f + peep_f * c)
            new = f * c + i * jnp.tanh(z_g)
            o = nn.sigmoid(z_o + peep_o * (new if self.peephole == "full" else c))
            h = (o * jnp.tanh(new)).astype(h.dtype)
            return (h, new), (h, new)

        place = (*z[:, 0].shape[:-1], self.features)
        h, c = (jnp.zeros(place),) * 2 if initial is None else initial
        _check_state((h, c), place)
        k = jnp.ones(z.shape[:2], wide) if markers is None else jnp.asarray(markers, wide)
        if k.shape != z.shape[:2]:
            raise ValueError(f"Markers are [B, T] = {z.shape[:2]} here; these are {k.shape}.")
        start = h.astype(z.dtype), c.astype(wide)
        _, (h, c) = over_time(step, h_conv, start, (z, k), reverse=reverse)
        return (h, c) if cells else h

    def _peepholes(self, size: tuple[int, int], dtype: DType) -> list[jax.Array]:
        """Weights of i, f and o that broadcast over [B, H, W, features]."""
        if self.peephole is None:
            return [jnp.zeros((1, 1, 1, 1), dtype)] * 3
        shape = {"shared": size, "full": (*size, self.features)}.get(self.peephole)
        if shape is None:
            raise ValueError(f"peephole={self.peephole!r}: there are None, 'shared' and 'full'.")
        made = (self.param(f"peephole_{gate}", self.peephole_init, shape) for gate in "ifo")
        return [weights.astype(dtype).reshape(1, *size, -1) for weights in made]


class ConvGRU(nn.Module):
    """A ConvGRU: [B, T, H, W, C] -> hidden states [B, T, H, W, features].

    With h' the state before, and both conventions of the reset gate,

        u = s(x * Wxu + h' * Whu + bu)    r = s(x * Wxr + h' * Whr + br)    h = (1 - u) . h' + u . n
        n = tanh(x * Wxn + (r . h') * Whn + bn)   or   tanh(x * Wxn + r . (h' * Whn) + bn)

    Attributes:
        features: Channels of the state.
        kernel: Side of all six convolutions.
        reset_after: The second form of n.
        kernel_init: Of all convolutions.
        dtype: What the convolutions compute in; gates are float32 at least.
    """

    features: int
    kernel: int = 3
    reset_after: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DType | None = None

    def setup(self) -> None:
        conv = partial(
            nn.Conv,
            self.features,
            (self.kernel, self.kernel),
            padding=_padding(self.kernel),
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        self.x_update, self.x_reset, self.x_out = (conv() for _ in range(3))
        self.h_update, self.h_reset, self.h_out = (conv(use_bias=False) for _ in range(3))

    def __call__(
        self, x: jax.Array, *, initial: jax.Array | None = None, reverse: bool = False
    ) -> jax.Array:
        """The hidden states in the frames' order.

        Args:
            x: [B, T, H, W, C].
            initial: The state [B, H, W, features] before the first step; zeros if None.
            reverse: From the last frame to the first.
        """
        from_x = self.x_update(x), self.x_reset(x), self.x_out(x)
        place = (*x[:, 0].shape[:-1], self.features)
        h = jnp.zeros(place) if initial is None else initial
        _check_state((h,), place)
        start = h.astype(from_x[0].dtype)
        return over_time(ConvGRU._step, self, start, from_x, reverse=reverse)[1]

    def _step(self, h: jax.Array, from_x: tuple) -> tuple[jax.Array, jax.Array]:
        wide = jnp.promote_types(h.dtype, jnp.float32)
        x_update, x_reset, x_out = (each.astype(wide) for each in from_x)
        update = nn.sigmoid(x_update + self.h_update(h).astype(wide))
        reset = nn.sigmoid(x_reset + self.h_reset(h).astype(wide))
        if self.reset_after:
            seen = reset * self.h_out(h).astype(wide)
        else:
            seen = self.h_out((reset * h).astype(h.dtype)).astype(wide)
        h = _between(h, jnp.tanh(x_out + seen), update)
        return h, h


class ConvGRUCell(nn.Module):
    """One step of a ConvGRU: states [..., H, W, features], inputs [..., H, W, C] -> new states.

    Each gate is one biased convolution of input and state joined, as PyTorch's networks write it
    (`update_gate`, `reset_gate`, `out_gate`); the reset gate comes before the convolution, and the
    update gate weighs the candidate.

    Attributes:
        features: Channels of the state.
        kernel: (height, width) of the three convolutions.
        state_first: Whether the state comes before the input in the joined channels.
        kernel_init: Of all convolutions.
        dtype: What the convolutions compute in; gates are float32 at least, states keep their type.
    """

    features: int
    kernel: tuple[int, int] = (3, 3)
    state_first: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DType | None = None

    def setup(self) -> None:
        _padding(max(self.kernel)), _padding(min(self.kernel))
        gate = partial(_Gate, self.features, self.kernel, self.kernel_init, self.dtype)
        self.update_gate, self.reset_gate, self.out_gate = gate(), gate(), gate()

    def __call__(
        self, h: jax.Array, x: jax.Array, held: Sequence[jax.Array] | None = None
    ) -> jax.Array:
        """The new state.

        Args:
            h: The state.
            x: The input; with `held`, what is left of it.
            held: `self.held` of the input's first channels.
        """
        wide = jnp.promote_types(h.dtype, jnp.float32)
        _check_state((h,), (*x.shape[:-1], self.features))
        update, reset, out = (jnp.zeros((), wide),) * 3 if held is None else held
        count = 0 if held is None else self.update_gate.inputs() - self.features - x.shape[-1]
        first = self.features if self.state_first else 0
        left_out = slice(first, first + count)

        def joined(state: jax.Array) -> jax.Array:
            both = (state, x) if self.state_first else (x, state)
            return jnp.concatenate(both, axis=-1)

        both = joined(h)
        update = nn.sigmoid(self.update_gate(both, left_out).astype(wide) + update)
        reset = nn.sigmoid(self.reset_gate(both, left_out).astype(wide) + reset)
        kept = (reset * h).astype(h.dtype)
        return _between(
            h, jnp.tanh(self.out_gate(joined(kept), left_out).astype(wide) + out), update
        )

    def held(self, x: jax.Array) -> list[jax.Array]:
        """What the first channels [..., H, W, C'] of an input give the gates, for many steps alike.

        The cell must have parameters.
        """
        first = self.features if self.state_first else 0
        wide = jnp.promote_types(x.dtype, jnp.float32)
        gates = self.update_gate, self.reset_gate, self.out_gate
        return [gate.part(x, first).astype(wide) for gate in gates]


class _Gate(nn.Module):
    """A biased convolution of [..., H, W, C], of which a part can be done beforehand."""

    features: int
    kernel: tuple[int, int]
    kernel_init: nn.initializers.Initializer
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, left_out: slice) -> jax.Array:
        """Of all channels but those `left_out`, which `x` then lacks."""
        inputs = x.shape[-1] + left_out.stop - left_out.start
        kernel = self.param("kernel", self.kernel_init, (*self.kernel, inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        seen = [kernel[:, :, : left_out.start], kernel[:, :, left_out.stop :]]
        return self._convolved(x, jnp.concatenate(seen, axis=2), bias)

    def inputs(self) -> int:
        """Channels of the whole input."""
        return self.get_variable("params", "kernel").shape[2]

    def part(self, x: jax.Array, first: int) -> jax.Array:
        """What channels `first` and the following ones add, without the bias."""
        kernel = self.get_variable("params", "kernel")[:, :, first : first + x.shape[-1]]
        return self._convolved(x, kernel, jnp.zeros(self.features, kernel.dtype))

    def _convolved(self, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        padding = [(_padding(side),) * 2 for side in self.kernel]
        layout = ("NHWC", "HWIO", "NHWC")
        flat = x.reshape(-1, *x.shape[-3:])
        flat = jax.lax.conv_general_dilated(flat, kernel, (1, 1), padding, dimension_numbers=layout)
        return (flat + bias.reshape(1, 1, 1, -1)).reshape(*x.shape[:-1], self.features)


def bidirectional(
    forward: Callable[..., jax.Array],
    backward: Callable[..., jax.Array],
    x: jax.Array,
    *,
    deeper: bool = False,
    markers: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """States of a forward and of a backward pass, in the frames' order: to be summed or joined.

    Args:
        forward: A ConvLSTM or ConvGRU.
        backward: Another one, or the same for shared weights; it is run in reverse.
        x: [B, T, H, W, C].
        deeper: The backward pass reads the forward one's states in place of x (Song et al., ECCV
            2018).
        markers: [B, T] of the forward pass, for a ConvLSTM; where a sequence begins for the one
            pass, the one before it does for the other.
    """
    if markers is None:
        ahead = forward(x)
        return ahead, backward(ahead if deeper else x, reverse=True)
    ahead = forward(x, markers=markers)
    from_end = jnp.concatenate([markers[:, 1:], jnp.zeros_like(markers[:, :1])], axis=1)
    return ahead, backward(ahead if deeper else x, reverse=True, markers=from_end)


def _between(old: jax.Array, new: jax.Array, share: jax.Array) -> jax.Array:
    return ((1 - share) * old + share * new).astype(old.dtype)


def _padding(kernel: int, dilation: int = 1) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"kernel={kernel}: only odd ones keep the size of a map.")
    return dilation * (kernel // 2)


def _check_state(state: tuple[jax.Array, ...], shape: tuple[int, ...]) -> None:
    for each in state:
        if each.shape != shape:
            raise ValueError(f"The state before the first step is {shape} here, not {each.shape}.")
