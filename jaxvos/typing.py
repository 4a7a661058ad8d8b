"""The few types that every part of jaxvos agrees on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Variables = Mapping[str, Any]
"""A Flax variable tree: {"params": ..., "batch_stats": ...}."""

Batch = Mapping[str, jax.Array]
"""One training batch; every array starts with the batch axis B."""

Metrics = dict[str, jax.Array]
"""Named scalars of one step."""

DType = Any
"""What `jnp.asarray(..., dtype)` takes: the type a layer computes in; parameters stay float32."""


class Video(NamedTuple):
    """A video as the systems see it: pictures that are decoded when they are asked for.

    Attributes:
        frames: T pictures [H, W, 3] uint8 RGB; indexing decodes one, nothing keeps them all.
        flow: T - 1 fields [H, W, 2] float32 in pixels (x, y), from frame t to t + 1; what stands
            in for the last frame's is each system's own rule.
        first_mask: [H, W] integer labels of frame 0, for systems that are given them.
        name: What the results are called.
    """

    frames: Sequence[np.ndarray]
    flow: Sequence[np.ndarray] | None = None
    first_mask: np.ndarray | None = None
    name: str = "video"


Segmenter = Callable[[Video], Iterator[np.ndarray]]
"""Video -> one [H, W] float32 score map in [0, 1] per frame, in order ([H, W, K] for K objects)."""
