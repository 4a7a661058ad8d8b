"""Benchmarks of optical flow: DIS, and RAFT with its encoders shared and its two correlations."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.procedural import clip
from jaxvos.flow.dis import PRESETS, dis
from jaxvos.flow.raft import RAFT, padded, padding, prepare
from jaxvos.flow.raft_video import ITERATIONS
from jaxvos.programs.bench.data import FULL
from jaxvos.programs.bench.measure import MB, Extent, Measurement, alone, seconds
from jaxvos.programs.bench.network import random_variables
from jaxvos.systems import raft

LARGE = (1080, 1920)


def optical_flow(extent: Extent) -> list[Measurement]:
    """Seconds a frame of flow at 480p, and what RAFT's correlation takes of memory.

    "Pairwise" sends both frames of every pair through RAFT as released, which enlarges the flow
    after every iteration; "shared" is `jaxvos flow`: each frame is encoded once, and the last
    iteration is enlarged. 20 iterations, random weights. "Compiler" is the temporary memory that
    the compiled refinement asks for, with all pairs' correlations kept or computed on demand.
    """
    size = (128, 136) if extent.quick else FULL
    repeats, iterations = (1, 2) if extent.quick else (2, ITERATIONS)
    measurements = []
    frames = clip(0, frames=2, size=size).frames
    for preset in PRESETS:
        taken = seconds(partial(dis, *frames, preset=preset), 1 if extent.quick else 5)
        measurements.append(Measurement(f"DIS {preset}", "time", "s/frame", taken))
    for small in (True,) if extent.quick else (True, False):
        name = "RAFT small" if small else "RAFT"
        found = alone(_raft, small, size, iterations, repeats)
        for schedule in ("pairwise", "shared"):
            case = f"{name}, {schedule}"
            measurements.append(Measurement(case, "time", "s/frame", found[schedule]))
        gain = float(np.median(found["pairwise"]) / np.median(found["shared"]))
        case = f"{name}, shared"
        measurements.append(Measurement(case, "faster than pairwise", "times", [gain]))
    for large in (size,) if extent.quick else (FULL, LARGE):
        for on_demand in (False, True):
            taken = alone(_memory, on_demand, large)
            form = "on demand" if on_demand else "all pairs"
            case = f"RAFT at {large[0]} x {large[1]}, {form}"
            measurements.append(Measurement(case, "compiler", "MB", [taken / MB]))
    return measurements


def _raft(small: bool, size: tuple[int, int], iterations: int, repeats: int) -> dict[str, Any]:
    """Seconds a frame of both schedules."""
    model = RAFT(small=small, iterations=iterations)
    variables = random_variables(raft.SYSTEM, model)
    frames = clip(0, frames=2, size=tuple(size)).frames
    pads = padding(frames.shape[1:3])
    pair = jnp.stack([padded(frame, pads) for frame in frames])

    @jax.jit
    def pairwise(variables: Any, pair: jax.Array) -> jax.Array:
        return model.apply(variables, prepare(pair)[None])[:, -1]

    @jax.jit
    def encode(variables: Any, picture: jax.Array) -> tuple[jax.Array, jax.Array]:
        return model.apply(variables, prepare(picture)[None], method="encode")

    @jax.jit
    def refine(variables: Any, a: jax.Array, b: jax.Array, context: jax.Array) -> jax.Array:
        return model.apply(variables, a, b, context, method="refine")[1]

    a, context = encode(variables, pair[0])

    def shared() -> jax.Array:
        b, _ = encode(variables, pair[1])
        return refine(variables, a, b, context)

    return {
        "pairwise": seconds(partial(pairwise, variables, pair), repeats),
        "shared": seconds(shared, repeats),
    }


def _memory(on_demand: bool, size: tuple[int, int]) -> int:
    """Bytes of temporary memory of the compiled refinement; nothing is run."""
    model = RAFT(iterations=2, on_demand=on_demand)
    variables = random_variables(raft.SYSTEM, model)
    height, width = (side + sum(pad) for side, pad in zip(size, padding(size), strict=True))
    place = (1, height // 8, width // 8)
    maps = [jax.ShapeDtypeStruct((*place, 256), jnp.float32)] * 3
    refine = jax.jit(lambda v, *maps: model.apply(v, *maps, method="refine")[1])
    return refine.lower(variables, *maps).compile().memory_analysis().temp_size_in_bytes
