"""Benchmarks of optical flow (DIS; RAFT, its schedules and correlations) and of who sees it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.procedural import clip
from jaxvos.flow.dis import PRESETS, dis
from jaxvos.flow.fields import with_flow
from jaxvos.flow.raft import RAFT, padded, padding, prepare
from jaxvos.flow.raft_video import ITERATIONS
from jaxvos.programs.bench.data import FULL
from jaxvos.programs.bench.measure import (
    MB,
    Extent,
    Measurement,
    alone,
    seconds,
    seconds_in_turn,
)
from jaxvos.programs.bench.network import random_variables
from jaxvos.systems import SYSTEMS, raft
from jaxvos.typing import Video


class Reader(NamedTuple):
    """How a system that sees flow is measured.

    Attributes:
        tiny: Options of its smallest network.
        without: What its segmenter is told to go without flow; nothing if it cannot.
    """

    tiny: Mapping[str, Any]
    without: Mapping[str, Any] = {}


LARGE = (1080, 1920)
RESNET = {"depths": (1, 1, 1, 1), "width": 4, "features": 8}
VGG = {"width": 4, "convolutions": (1, 1, 1, 1, 1), "squeezed": 8, "features": 4, "neighbours": 3}
READERS: Mapping[str, Reader] = {
    "matnet": Reader(RESNET | {"cascades": 2, "boundary": 4}),
    "tmo": Reader(RESNET, {"motion": "image"}),
    "dpa": Reader(VGG),
}
"""Systems that see pictures of flow."""


def optical_flow(extent: Extent) -> list[Measurement]:
    """Seconds a frame of flow at 480p, and what RAFT's correlation takes of memory.

    "Pairwise" sends both frames of every pair through RAFT as released, which convolves the context
    and enlarges the flow in every iteration; "shared" is `jaxvos flow`: each frame is encoded once,
    its context convolved once, and the last iteration enlarged. 20 iterations, random weights.
    "Compiler" is the temporary memory that the compiled refinement asks for, with all pairs'
    correlations kept or computed on demand.
    """
    size = (128, 136) if extent.quick else FULL
    repeats, iterations = (1, 2) if extent.quick else (5, ITERATIONS)
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


def systems_with_flow(extent: Extent) -> list[Measurement]:
    """Seconds a frame at 480p of systems that see pictures of flow, whatever is compiled by then.

    "Flow at hand" has it in memory, "DIS" computes it, and "no flow" leaves it out (TMO shows both
    its encoders the frame). As published, random weights; MATNet sees each frame mirrored, too.
    """
    measurements = []
    for name in READERS:
        title = SYSTEMS[name].title.partition(" (")[0]
        for case, taken in alone(_segmenting, name, extent.quick).items():
            measurements.append(Measurement(f"{title}, {case}", "time", "s/frame", taken))
    return measurements


def _segmenting(name: str, quick: bool) -> dict[str, list[float]]:
    """Seconds a frame of a system with flow at hand, with flow by DIS, and without if it can."""
    system, reader = SYSTEMS[name], READERS[name]
    made = clip(0, frames=3 if quick else 5, size=(96, 128) if quick else FULL)
    frames = Video(made.frames, name="made up")
    at_hand = frames._replace(flow=list(made.flow))
    model = system.model(**(reader.tiny if quick else {}))
    variables = random_variables(system, model)
    size = {"size": (64, 64)} if quick else {}

    def every_frame(video: Callable[[], Video], options: Mapping[str, Any]) -> None:
        for _ in system.segmenter(model, variables, **size, **options)(video()):
            pass

    calls = {
        "flow at hand": partial(every_frame, lambda: at_hand, {}),
        "DIS": partial(every_frame, lambda: with_flow(frames, "dis"), {}),
    }
    if reader.without:
        calls["no flow"] = partial(every_frame, lambda: frames, reader.without)
    taken = seconds_in_turn(calls, 1 if quick else 3)
    return {case: [each / len(made.frames) for each in taken[case]] for case in calls}


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

    calls = {"pairwise": partial(pairwise, variables, pair), "shared": shared}
    return seconds_in_turn(calls, repeats)


def _memory(on_demand: bool, size: tuple[int, int]) -> int:
    """Bytes of temporary memory of the compiled refinement; nothing is run."""
    model = RAFT(iterations=2, on_demand=on_demand)
    variables = random_variables(raft.SYSTEM, model)
    height, width = (side + sum(pad) for side, pad in zip(size, padding(size), strict=True))
    place = (1, height // 8, width // 8)
    maps = [jax.ShapeDtypeStruct((*place, 256), jnp.float32)] * 3
    refine = jax.jit(lambda v, *maps: model.apply(v, *maps, method="refine")[1])
    return refine.lower(variables, *maps).compile().memory_analysis().temp_size_in_bytes
