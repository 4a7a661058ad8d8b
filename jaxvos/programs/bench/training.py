"""Benchmarks of what training pays: compilation, and a step."""

import time
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxvos import recipe
from jaxvos.layers import recurrent
from jaxvos.programs.bench.measure import MB, Extent, Measurement, alone, needed, room, seconds
from jaxvos.programs.bench.network import random_variables
from jaxvos.programs.train import State, compiled, placed
from jaxvos.systems import get

STEPS, STEPS_PER_EPOCH = 1000, 100  # what the schedule of the rates is told; it takes no time
KEEP_ALL = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
DTYPES, REMAT = ("float32", "bfloat16"), (False, True)


def compile_time(extent: Extent) -> list[Measurement]:
    """Seconds until COSNet's programs are traced, compiled, and have given their first result.

    Each in a fresh process, imports not counted: first with an empty compilation cache, then with
    the one that this left. "Scanned" compiles equal residual blocks once, as the body of a loop
    (model.scan). The network is that of configs/cosnet.py; encode and compare are at its size, the
    train step (forward, gradient and update, one pair) on CPU at 65 x 65, which is compiled as
    slowly and runs in a fraction of the time.
    """
    again = 1 if extent.quick else 3
    runs = {}
    for words, scan in (("unrolled", False), ("scanned", True)):
        with TemporaryDirectory() as cache:
            env = KEEP_ALL | {"JAX_COMPILATION_CACHE_DIR": cache}
            run = partial(alone, _first_results, scan, extent.quick, extent.accelerator, env=env)
            runs[f"{words}, empty cache"] = [run()]
            runs[f"{words}, kept cache"] = [run() for _ in range(again)]
    programs = runs["unrolled, empty cache"][0]
    return [
        Measurement(f"{program}, {case}", quantity, "s", [run[program][quantity] for run in some])
        for program, quantities in programs.items()
        for case, some in runs.items()
        for quantity in quantities
    ]


def train_step(extent: Extent) -> list[Measurement]:
    """Speed of a training step on one device, its data being there: forward, gradient, update.

    A pair is two frames, both encoded (training's progress bar counts it as one image). "Compiler"
    is all the memory that the compiled step holds by the compiler's estimate; a step that asks for
    more than there is has no speed. Remat computes the encoder's insides again for the gradient.
    """
    cases = [("cosnet_small", 4, dtype, remat) for dtype in DTYPES for remat in REMAT]
    if extent.accelerator or (extent.asked and not extent.quick):
        batches = (4, 8, 16) if extent.accelerator else (4,)
        cases += [("cosnet", b, d, r) for b in batches for d in DTYPES for r in REMAT]
    repeats, env = 10 if extent.accelerator else 5, {}
    if extent.quick:  # compilation is nearly all of the time
        cases, repeats = [("cosnet_small:smoke", 4, "float32", False)], 2
        env = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    measurements = []
    for name, batch, dtype, remat in cases:
        found = alone(_step, name, batch, dtype, remat, repeats, env=env)
        case = f"{name}, {batch} pairs, {dtype}{', remat' * remat}"
        measurements.append(Measurement(case, "compiler", "MB", [found["compiler"] / MB]))
        if found["seconds"] is not None:
            rates = [1 / value for value in found["seconds"]]
            measurements += [
                Measurement(case, "steps", "steps/s", rates),
                Measurement(case, "pairs", "pairs/s", [batch * rate for rate in rates]),
            ]
    return measurements


def loops(extent: Extent) -> list[Measurement]:
    """Seconds of a gradient through steps over time: within a loop, or one after the other.

    The second is what a CPU does with short loops. ConvLSTM: 64 channels, 2 clips of 5 frames of
    30 x 54. RAFT small: 6 iterations, 4 pairs of 128 x 192, loss and gradient of all weights.
    """
    measurements = []
    for title in ("ConvLSTM", "RAFT small"):
        for case, most in (("within a loop", 0), ("one after the other", recurrent.MOST_UNROLLED)):
            taken = alone(_gradient, title, most, extent.quick)
            measurements.append(Measurement(f"{title}, {case}", "time", "s", taken))
    return measurements


def _gradient(title: str, most: int, quick: bool) -> list[float]:
    """Seconds of the gradient where loops of up to `most` steps are none."""
    recurrent.MOST_UNROLLED = most
    if title == "ConvLSTM":
        layer = recurrent.ConvLSTM(4 if quick else 64)
        frames = jnp.ones((1, 2, 4, 6, 4) if quick else (2, 5, 30, 54, 64))
        variables = jax.jit(layer.init)(jax.random.key(0), frames)
        value = lambda v: jnp.square(layer.apply(v, frames)).sum()  # noqa: E731
    else:
        system, size = get("raft"), (64, 64) if quick else (128, 192)
        model = system.model(small=True, iterations=2 if quick else 6)
        variables = random_variables(system, model)
        frames = jnp.ones((1 if quick else 4, 2, *size, 3))
        batch = {"flow": jnp.ones((len(frames), 1, *size, 2))}
        value = lambda v: system.loss(model.apply(v, frames, train=True), batch)[0]  # noqa: E731
    return seconds(partial(jax.jit(jax.grad(value)), variables), 1 if quick else 3)


def _first_results(scan: bool, quick: bool, accelerator: bool) -> dict[str, dict[str, float]]:
    """For encode, compare and train step: seconds to trace, to compile, and to the first result."""
    name = "cosnet:smoke" if quick else "cosnet"
    config = recipe.read_recipe(name, ("batch=1", f"model.scan={scan}"))
    with config.unlocked():
        if quick:
            config.model.depths = (1, 3, 1, 1)  # with a stage that has blocks to scan
        elif not accelerator:
            config.data.size = (65, 65)
    system = get(config.system)
    model = system.model(**recipe.model_options(config))
    variables = random_variables(system, model)
    picture = jnp.zeros((1, *config.segmenter.size, 3))
    encode = partial(model.apply, method="encode")
    features = jax.eval_shape(encode, variables, picture)[0]
    maps = [jnp.ones(features.shape)] * 2
    results = {
        "encode": _timed(jax.jit(encode), variables, picture),
        "compare": _timed(jax.jit(partial(model.apply, method="compare")), variables, *maps),
    }
    if quick:  # even the smallest gradient takes half a minute on a busy machine
        return results
    state, batch, step = _training(config)
    return results | {"train step": _timed(step, state, batch)}


def _timed(function: Any, *arguments: Any) -> dict[str, float]:
    """Seconds to trace a jitted function, to compile it, and from the start to its first result."""
    times = [time.perf_counter()]
    lowered = function.lower(*arguments)
    times.append(time.perf_counter())
    program = lowered.compile()
    times.append(time.perf_counter())
    jax.block_until_ready(program(*arguments))
    times.append(time.perf_counter())
    traced, built = np.diff(times)[:2].tolist()
    return {"trace": traced, "compile": built, "first result": times[3] - times[0]}


def _training(config: ConfigDict) -> tuple[State, dict[str, jax.Array], Any]:
    """A recipe's random state, a made-up video batch and the jitted step, on one device."""
    system = get(config.system)
    model = system.model(**recipe.model_options(config))
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    program = compiled(config, system, model, mesh, STEPS, STEPS_PER_EPOCH)
    state = program.make(random_variables(system, model))
    return state, placed(_made_up(config.batch, config.data.size), mesh), program.step


def _made_up(batch: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """A video batch of noise, with squares for masks; see `data_pipelines.samples`."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, batch, *size, 3), np.uint8)
    mask = np.zeros((batch, *size, 1), np.float32)
    mask[:, size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    masks = {"target_mask": mask, "reference_mask": mask}
    return {"target": pictures[0], "reference": pictures[1]} | masks


def _step(name: str, batch: int, dtype: str, remat: bool, repeats: int) -> dict[str, Any]:
    """Seconds of each step, None if it does not fit, and the bytes that the compiler asks for."""
    changes = (f"batch={batch}", f"model.dtype={dtype}", f"model.remat={remat}")
    state, data, step = _training(recipe.read_recipe(name, changes))
    program = step.lower(state, data).compile()
    compiler = needed(program)
    if compiler > room():
        return {"seconds": None, "compiler": compiler}
    states = [state]

    def advance() -> State:
        states.append(program(states.pop(), data)[0])  # the old state's memory is used again
        return states[0]

    return {"seconds": seconds(advance, repeats), "compiler": compiler}
