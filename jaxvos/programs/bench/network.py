"""Benchmarks of networks at work: protocols' schedules, and the two forms of co-attention."""

import time
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.procedural import clip
from jaxvos.inference import draw_references, fit, to_size
from jaxvos.layers.attention import coattend, coattend_blockwise
from jaxvos.programs.bench.measure import MB, Extent, Measurement, alone, peak_memory, seconds
from jaxvos.system import System, initialise
from jaxvos.systems import agnn, cosnet
from jaxvos.typing import Variables, Video

REFERENCES = 5
CHANNELS = 256
TINY = cosnet.COSNet(depths=(1, 1, 1, 1), width=8, branch=16, features=16)


def protocol(extent: Extent) -> list[Measurement]:
    """Seconds a frame of COSNet's protocol (5 references a frame), whatever is compiled by then.

    "Encoded once" is our segmenter; "as released" sends both frames of every pair through the whole
    network, one pair at a time. Both have the same weights (ResNet-101, random), frames, references
    and size, and the last column says how far their scores are apart.
    """
    if extent.quick:
        plan = {"tiny": True, "frames": 8, "released": 4, "repeats": 3, "batches": (1,)}
    elif extent.accelerator:
        plan = {"tiny": False, "frames": 40, "released": 10, "repeats": 3, "batches": (1, 8)}
    else:
        plan = {"tiny": False, "frames": 6, "released": 2, "repeats": 2, "batches": (1,)}
    found = alone(_schedules, *plan.values())
    released = Measurement("as released", "time", "s/frame", found["released"])
    measurements = [released]
    for batch, once in found["once"].items():
        gain = float(np.median(released.values) / np.median(once["seconds"]))
        case = f"encoded once, {batch} frame{'s' * (batch != '1')} a call"
        measurements += [
            Measurement(case, "time", "s/frame", once["seconds"]),
            Measurement(case, "faster than as released", "times", [gain]),
            Measurement(case, "largest difference of scores", "of 1", [once["difference"]]),
        ]
    return measurements


def graphs(extent: Extent) -> list[Measurement]:
    """Seconds a frame of AGNN's protocol at one scale (3 nodes, 5 rounds), without compilation.

    "As released" encodes all frames of every frame's graph and answers for all of them; ours
    encodes a frame once and computes the last round for the frame alone; "shared" keeps a graph's
    answers for all its frames, which is another draw of graphs. Each is the sum of the parts that
    were measured: encoding a frame, and a graph with all answers or with one.
    """
    found = alone(_graph_parts, extent.quick, 2 if extent.quick else 3)
    encode, whole, one = (float(np.median(found[part])) for part in ("encode", "all", "one"))
    nodes = found["nodes"]
    schedules = {
        "as released": nodes * encode + whole,
        "encoded once, one answer a graph": encode + one,
        "encoded once, shared graphs": encode + whole / nodes,
    }
    measurements = [
        Measurement(f"part: {case}", "time", "s/frame", found[part])
        for part, case in (
            ("encode", "encoding a frame"),
            ("all", "a graph, all answers"),
            ("one", "a graph, one answer"),
        )
    ]
    for case, taken in schedules.items():
        measurements.append(Measurement(case, "time", "s/frame", [taken]))
        gain = schedules["as released"] / taken
        if gain != 1:
            measurements.append(Measurement(case, "faster than as released", "times", [gain]))
    return measurements


def attention(extent: Extent) -> list[Measurement]:
    """Time and memory of one pair's co-attention (256 channels), whole matrix against blocks of it.

    "Compiler" is the temporary memory that the compiled program asks for; "process" is by how much
    running it raised the peak of its process (or of the accelerator). 3600 places are a picture of
    473 x 473 at 1/8.
    """
    if extent.quick:
        places, blocks, repeats = (1024,), (64,), 2
    else:
        places, blocks, repeats = (900, 3600, 8100), (128, 512, 2048), 3
    measurements = []
    for n in places:
        for block in (0, *(block for block in blocks if block < n)):
            case = f"{n} places, {f'blocks of {block}' if block else 'whole'}"
            for gradient in (False, True):
                found = alone(_attention, n, block, gradient, repeats)
                name = "forward and gradient" if gradient else "forward"
                measurements += [
                    Measurement(case, name, "ms", [1e3 * value for value in found["seconds"]]),
                    Measurement(case, f"{name}: compiler", "MB", [found["compiler"] / MB]),
                    Measurement(case, f"{name}: process", "MB", [found["process"] / MB]),
                ]
    return measurements


def random_variables(system: System, model: nn.Module) -> Variables:
    """Variables of a model, drawn on the host: nothing is compiled, as it is by `initialise`."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        kind = path[-1].key
        if kind == "kernel":
            size = np.sqrt(np.prod(leaf.shape[:-1]))
            return rng.standard_normal(leaf.shape, np.float32) / np.float32(size)
        return np.full(leaf.shape, kind in ("scale", "var"), np.float32)

    shapes = jax.eval_shape(partial(initialise, system, model, 0))
    return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


def _graph_parts(quick: bool, repeats: int) -> dict[str, Any]:
    """Seconds of encoding a frame and of a graph, with all its answers and with one."""
    options = {"depths": (1, 1, 1, 1), "width": 8, "branch": 16, "features": 16} if quick else {}
    model, size = agnn.AGNN(**options), (33, 49) if quick else agnn.SIZE
    variables = random_variables(agnn.SYSTEM, model)
    picture = clip(0, frames=1, size=(96, 128)).frames
    small = np.stack([fit(each, size) for each in picture])
    states = agnn._encode(model, variables, small)
    nodes = jnp.stack([states[0]] * model.nodes)[None]
    decide = partial(agnn._decide, model, variables, nodes, size=size)
    return {
        "nodes": model.nodes,
        "encode": seconds(
            lambda: jax.block_until_ready(agnn._encode(model, variables, small)), repeats
        ),
        "all": seconds(lambda: jax.block_until_ready(decide(wanted=None)), repeats),
        "one": seconds(lambda: jax.block_until_ready(decide(wanted=(0,))), repeats),
    }


def _schedules(
    tiny: bool, frames: int, released: int, repeats: int, batches: list[int]
) -> dict[str, Any]:
    """Seconds a frame of both schedules on one clip, and how far their scores are apart.

    The released one costs the same for every frame, so that `released` of the frames will do.
    """
    model, size = (TINY, (65, 65)) if tiny else (cosnet.COSNet(), cosnet.SIZE)
    variables = random_variables(cosnet.SYSTEM, model)
    pictures = clip(0, frames=frames, size=(96, 128) if tiny else (480, 854)).frames
    _, chosen = draw_references(frames, REFERENCES, pool=frames, seed=0)

    def as_released(t: int) -> np.ndarray:
        target, *others = (fit(pictures[i], size)[None] for i in (t, *chosen[t]))
        maps = [_pair(model, variables, target, other)["target"] for other in others]
        return to_size(np.mean(maps, axis=0)[0, ..., 0], pictures.shape[1:3])

    picture = fit(pictures[0], size)[None]
    jax.block_until_ready(_pair(model, variables, picture, picture))  # compiles
    expected, taken = [], []
    for t in range(released):
        begin = time.perf_counter()
        expected.append(as_released(t))
        taken.append(time.perf_counter() - begin)
    once = {}
    for batch in batches:
        segment = cosnet.segmenter(
            model, variables, size=size, references=REFERENCES, batch=batch, pool=frames
        )
        next(segment(Video(pictures[:REFERENCES])))  # compiles
        per_frame = []
        for _ in range(repeats):
            begin = time.perf_counter()
            scores = list(segment(Video(pictures)))
            per_frame.append((time.perf_counter() - begin) / frames)
        apart = [np.abs(a - b).max() for a, b in zip(scores, expected, strict=False)]
        once[batch] = {"seconds": per_frame, "difference": float(max(apart))}
    return {"released": taken, "once": once}


@partial(jax.jit, static_argnames="model")
def _pair(
    model: cosnet.COSNet, variables: Variables, target: jax.Array, reference: jax.Array
) -> dict[str, jax.Array]:
    """Probabilities of all outputs of one pair; all, so that nothing is left out as unused."""
    outputs = model.apply(variables, cosnet.prepare(target), cosnet.prepare(reference))
    return jax.tree.map(nn.sigmoid, outputs)


def _attention(places: int, block: int, gradient: bool, repeats: int) -> dict[str, Any]:
    """Seconds of each repeat, and bytes: the compiler's and by how much the process grew."""
    form = partial(coattend_blockwise, block=block) if block else coattend

    def loss(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return sum(jnp.square(summary).sum() for summary in form(x, a, b))

    rng = np.random.default_rng(0)
    a, b = jax.device_put(rng.standard_normal((2, places, CHANNELS), np.float32))
    function = jax.jit(jax.grad(loss, argnums=(0, 1, 2)) if gradient else form)
    program = function.lower(a / CHANNELS**0.5, a, b).compile()
    arguments = jax.block_until_ready((a / CHANNELS**0.5, a, b))
    before = peak_memory()
    taken = seconds(partial(program, *arguments), repeats)
    compiler = program.memory_analysis().temp_size_in_bytes
    return {"seconds": taken, "compiler": compiler, "process": peak_memory() - before}
