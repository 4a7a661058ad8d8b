"""The fully connected CRF as post-processing: score maps sharpened along the edges of their frames.

Kraehenbuehl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NIPS 2011. Every pixel is tied to every other by two Gaussian kernels: smoothness, of the positions
(row, column), and appearance, of (row, column, R, G, B). Mean field needs of each kernel one
filtering a step, which the permutohedral lattice (Adams, Baek & Davis, 2010) does in linear time.

A kernel's lattice is laid by numpy on the host (`jaxvos.permutohedral`). Filtering and mean field
are JAX, on any device. The released C++ code also fills the picture up to a multiple of 4 pixels
with black ones in the corner; not here.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.permutohedral import (
    Kernel,
    Lattice,
    exact_kernel,
    filtered,
    joined,
    lattice,
    normaliser,
)
from jaxvos.typing import Segmenter, Video

EXACT_PIXELS = 2**15
ROUNDING = 1e-5


class Settings(NamedTuple):
    """One published post-processing.

    Attributes:
        gaussian_sxy: Standard deviation of the smoothness kernel in pixels.
        gaussian_compat: Its weight (Potts model).
        bilateral_sxy: Standard deviation of the appearance kernel in pixels.
        bilateral_srgb: The same in colours of 0..255.
        bilateral_compat: Its weight.
        iterations: Steps of mean field, at most.
        unary: What the scores become: "probability", or "energies" (see `unary`).
        stretch: Whether each score map is first stretched to 0..1; a constant one stays as it is.
        stop: Mean field ends when the divergence, summed over the picture, changes by less than
            this in a step. It depends on the picture's size. None: all the steps.
    """

    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float
    iterations: int
    unary: str = "probability"
    stretch: bool = False
    stop: float | None = None


# The released script of COSNet writes nine settings and does not say which one was reported; the
# plain name is the middle of that grid, and no claim.
PRESETS: dict[str, Settings] = {
    "pdb": Settings(3, 3, 60, 5, 5, iterations=5, stretch=True),
    "cosnet": Settings(1, 5, 15, 7, 9, iterations=5, stretch=True),
    **{
        f"cosnet-{sxy}-{compat}": Settings(1, 5, sxy, 7, compat, iterations=5, stretch=True)
        for sxy in (10, 15, 20)
        for compat in (8, 9, 10)
    },
    "agnn": Settings(1, 5, 30, 5, 9, iterations=5, stretch=True),
    "mpnet": Settings(3, 3, 50, 10, 5, iterations=5, stretch=True),
    "ags": Settings(3, 3, 30, 5, 5, iterations=10, unary="energies", stop=500.0),
    "matnet": Settings(3, 3, 30, 5, 5, iterations=5, unary="energies", stop=500.0),
}


class Term(NamedTuple):
    """One kernel of the energy, with 1/sqrt(K 1), [N], and its weight, a scalar."""

    kernel: Kernel
    norm: jax.Array
    compat: jax.Array | float


def refine(
    frame: np.ndarray, scores: np.ndarray, settings: str | Settings, *, exact: bool = False
) -> np.ndarray:
    """Probabilities after the CRF, float32, of the scores' shape.

    Args:
        frame: [H, W, 3] uint8 RGB.
        scores: [H, W] in 0..1 of one object, or [H, W, K] of K objects; what these leave of 1 is
            the background's, and where they claim more than 1 they are scaled down to it.
        settings: One of `PRESETS` by name, or a record of one's own.
        exact: Sums over all pairs of pixels instead of the lattice; small pictures only.
    """
    return _refine([frame], [scores], settings, exact)[0]


def refine_many(
    frames: Sequence[np.ndarray], scores: Sequence[np.ndarray], settings: str | Settings
) -> np.ndarray:
    """`refine` of B frames of one size in one go: [B, H, W] or [B, H, W, K] float32."""
    if not len(frames) or len(frames) != len(scores):
        raise ValueError(
            f"{len(frames)} frames and {len(scores)} score maps: one for each, please."
        )
    shapes = sorted({(*np.shape(f), *np.shape(s)) for f, s in zip(frames, scores, strict=True)})
    if len(shapes) > 1:
        raise ValueError(f"Pictures refined together are of one size, not {shapes}: use `refine`.")
    return _refine(frames, scores, settings, exact=False)


def refined(segmenter: Segmenter, settings: str | Settings) -> Segmenter:
    """The segmenter with every score map refined against its frame, one at a time."""
    settings = named(settings)

    def segment(video: Video) -> Iterator[np.ndarray]:
        for t, scores in enumerate(segmenter(video)):
            yield refine(video.frames[t], scores, settings)

    return segment


def named(settings: str | Settings) -> Settings:
    """The settings of that name, or those given, checked."""
    if isinstance(settings, str):
        if settings not in PRESETS:
            raise ValueError(f"No CRF is called {settings!r}. There are: {', '.join(PRESETS)}.")
        return PRESETS[settings]
    if min(settings.gaussian_sxy, settings.bilateral_sxy, settings.bilateral_srgb) <= 0:
        raise ValueError(f"Standard deviations are above 0, unlike one of {settings}.")
    if settings.iterations < 0:
        raise ValueError(f"Mean field takes 0 steps or more, not {settings.iterations}.")
    if settings.unary not in ("probability", "energies"):
        raise ValueError(f'The unary is "probability" or "energies", not {settings.unary!r}.')
    return settings


def unary(scores: np.ndarray, settings: str | Settings) -> np.ndarray:
    """Energies [L, H, W] float32 of the background and of the L - 1 objects; see `refine`.

    A constant map, whose stretch would divide by zero, is not stretched. "energies" is what AGS
    and MATNet released: -log(p) / (1.05 sigmoid(p)) of the object goes to the background and the
    other way round, and both are taken for probabilities, so that they are logged a second time.
    """
    settings = named(settings)
    p = _probabilities(scores)
    if settings.stretch:
        low, high = p.min((1, 2), keepdims=True), p.max((1, 2), keepdims=True)
        p = np.where(high > low, (p - low) / np.where(high > low, high - low, 1), p)
    if settings.unary == "energies":
        if len(p) > 1:
            raise ValueError(f'unary="energies" is defined for one object, not for {len(p)}.')
        labels = np.concatenate([p, 1 - p])
        labels = -np.log(labels + 1e-8) / (1.05 / (1 + np.exp(-labels)))
    else:
        claimed = p.sum(0, keepdims=True)
        labels = np.concatenate([np.maximum(1 - claimed, 0), p / np.maximum(claimed, 1)])
    return -np.log(np.clip(labels, 1e-5, 1)).astype(np.float32)


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Scores [H, W] or [H, W, K] as [K, H, W] float64, clipped to 0..1 where rounding left it."""
    p = np.asarray(scores, np.float64)
    if p.ndim not in (2, 3) or not p.size:
        raise ValueError(f"Scores are [H, W] or [H, W, K], not {p.shape}.")
    if not np.isfinite(p).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(p))} scores are not finite numbers.")
    if p.min() < -ROUNDING or p.max() > 1 + ROUNDING:
        raise ValueError(
            f"Scores are in 0..1, not in {p.min():g}..{p.max():g}: divide grey values by 255, "
            f"pass logits through a sigmoid."
        )
    return np.clip(np.moveaxis(np.atleast_3d(p), -1, 0), 0, 1)


def _refine(
    frames: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    settings: str | Settings,
    exact: bool,
) -> np.ndarray:
    """Probabilities [B, H, W] or [B, H, W, K] of B checked pictures of one size."""
    settings = named(settings)
    for frame, each in zip(frames, scores, strict=True):
        _check(frame, each)
    energies = np.stack([unary(each, settings) for each in scores], axis=1)
    terms = _exact_terms(frames[0], settings) if exact else _terms(frames, settings)
    q = mean_field(
        energies.reshape(*energies.shape[:2], -1), terms, settings.iterations, settings.stop
    )
    objects = np.moveaxis(np.asarray(q[1:]).reshape(energies[1:].shape), 0, -1)
    return objects if np.ndim(scores[0]) == 3 else objects[..., 0]


def _check(frame: np.ndarray, scores: np.ndarray) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"A frame is [H, W, 3] uint8 RGB, not {frame.shape} {frame.dtype}.")
    if np.shape(scores)[:2] != frame.shape[:2]:
        raise ValueError(
            f"The scores are {np.shape(scores)}, their frame {frame.shape}: resize them to it."
        )


def _terms(frames: Sequence[np.ndarray], settings: Settings) -> tuple[Term, Term]:
    """Both kernels of B pictures, whose appearance lattices lie side by side."""
    smoothness, norm = _smoothness(*frames[0].shape[:2], settings.gaussian_sxy)
    lattices = [lattice(_colours(frame, settings)) for frame in frames]
    appearance = jax.tree.map(jnp.asarray, joined(lattices))
    return (
        Term(smoothness, norm, settings.gaussian_compat),
        Term(appearance, normaliser(appearance), settings.bilateral_compat),
    )


@lru_cache(maxsize=4)
def _smoothness(height: int, width: int, sxy: float) -> tuple[Lattice, jax.Array]:
    """The smoothness kernel and its norm, which depend on the picture's size alone."""
    kernel = jax.tree.map(jnp.asarray, joined([lattice(_positions(height, width, sxy))]))
    return kernel, normaliser(kernel)


def _exact_terms(frame: np.ndarray, settings: Settings) -> tuple[Term, Term]:
    """Both kernels of one small picture as [N, N] matrices."""
    height, width = frame.shape[:2]
    if height * width > EXACT_PIXELS:
        memory = 8 * (height * width) ** 2 / 2**30
        raise ValueError(
            f"Exact kernels of {height} x {width} pixels take {memory:.0f} GiB of memory; up to "
            f"{EXACT_PIXELS} pixels are allowed. Shrink the picture, or leave exact=True out."
        )
    smoothness = exact_kernel(_positions(height, width, settings.gaussian_sxy))
    appearance = exact_kernel(_colours(frame, settings))
    return (
        Term(smoothness, normaliser(smoothness), settings.gaussian_compat),
        Term(appearance, normaliser(appearance), settings.bilateral_compat),
    )


def _positions(height: int, width: int, sxy: float) -> np.ndarray:
    """Features [2, H W] float32: row and column in standard deviations."""
    return np.indices((height, width), np.float32).reshape(2, -1) / np.float32(sxy)


def _colours(frame: np.ndarray, settings: Settings) -> np.ndarray:
    """Features [5, H W] float32: row, column, R, G, B in standard deviations."""
    colours = frame.reshape(-1, 3).T.astype(np.float32) / np.float32(settings.bilateral_srgb)
    return np.concatenate([_positions(*frame.shape[:2], settings.bilateral_sxy), colours])


# Filtering and mean field: device code. Python's sum over rows stands where a reduction along the
# first axis would be, since XLA's takes ten times as long on a CPU.


def pairwise(terms: Sequence[Term], x: jax.Array) -> jax.Array:
    """The weighted sum of the normalised kernels of x [C, B, N], the same shape.

    A kernel of N pixels filters the pictures as so many channels, one of B N as one picture.
    """
    total = jnp.zeros_like(x)
    for kernel, norm, compat in terms:
        rows = x.reshape(-1, len(norm))
        total += compat * (norm[None] * filtered(kernel, norm[None] * rows)).reshape(x.shape)
    return total


@jax.jit
def mean_field(
    unary: jax.Array, terms: tuple[Term, ...], iterations: int, stop: float | None
) -> jax.Array:
    """Probabilities [L, B, N] of L labels, from energies of the same shape.

    The softmax sees differences of the messages alone and filtering is linear, so what is filtered
    is each label's probability less the background's: one channel for a mask.
    """

    def step(state: tuple) -> tuple:
        t, q, before, going = state
        pull = pairwise(terms, q[1:] - q[:1])
        new = _softmax(jnp.concatenate([-unary[:1], pull - unary[1:]]))
        if stop is None:
            return t + 1, new, before, going
        now = divergence(q, unary, pull, even)
        # Summed changes keep digits that the difference of two float32 totals would lose.
        going &= jnp.abs((now - before).sum(1)) >= stop
        return t + 1, jnp.where(going[None, :, None], new, q), now, going

    even = None if stop is None else pairwise(terms, jnp.ones_like(unary[:1]))
    before, going = jnp.full(unary.shape[1:], jnp.inf), jnp.ones(unary.shape[1], bool)
    start = 0, _softmax(-unary), before, going
    return jax.lax.while_loop(lambda s: (s[0] < iterations) & s[3].any(), step, start)[1]


def _softmax(x: jax.Array) -> jax.Array:
    """Softmax along the first axis of x [L, B, N]."""
    e = jnp.exp(x - reduce(jnp.maximum, x)[None])
    return e / sum(e)[None]


def divergence(q: jax.Array, unary: jax.Array, pull: jax.Array, even: jax.Array) -> jax.Array:
    """[B, N], to be summed: what the released code calls the KL divergence of q [L, B, N].

    Every pair of pixels counts twice in it.

    Args:
        q: Probabilities.
        unary: Energies, of q's shape.
        pull: [L - 1, B, N], `pairwise` of each label's probability less the background's.
        even: [1, B, N], `pairwise` of ones.
    """
    background = (even - sum(pull)[None]) / len(q)
    messages = jnp.concatenate([background, background + pull])
    return sum(q * (jnp.log(jnp.maximum(q, 1e-20)) + unary - messages))
