"""Training, top to bottom: one jitted step over a device mesh, Orbax, evaluation, a progress bar.

    config -> system -> Grain batches -> arrays over a ("data",) mesh -> step -> checkpoints

The same program runs on one device, on several, and as several processes that share the devices of
several machines and a workdir. The workdir of a run holds

    recipe.json          what is trained
    metrics.jsonl        one line of numbers every `log_every` steps, at checkpoints and evaluations
    tensorboard/         the same for TensorBoard, where tensorboardX is installed
    checkpoints/STEP/    parameters, statistics, optimiser and the data's place, by Orbax
    weights.safetensors  the weights of the best evaluation; without one, of the last checkpoint
    non_finite.json      only of a run that a non-finite loss ended: that batch's records
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from data_pipelines import samples, sources
from data_pipelines.video_records import VideoRecord
from jaxvos import optim, recipe
from jaxvos.flow.fields import with_flow
from jaxvos.metrics.davis import region_similarity
from jaxvos.programs.progress import TrainingBar
from jaxvos.programs.rundir import RunDir
from jaxvos.programs.watch import Watch
from jaxvos.system import System, initialise, inputs_of
from jaxvos.systems import get, pretrained
from jaxvos.typing import Batch, Metrics, Variables, Video


@flax.struct.dataclass
class State:
    """What a step changes."""

    step: jax.Array
    params: Any
    statistics: Any
    optimizer: Any

    @property
    def variables(self) -> Variables:
        """What the model is applied with."""
        return {"params": self.params, "batch_stats": self.statistics}


class Program(NamedTuple):
    """The compiled functions of a run.

    Attributes:
        make: New variables -> the first state, a copy on every device.
        step: (state, batch) -> (state, metrics); the state's memory is used again.
    """

    make: Callable[[Variables], State]
    step: Callable[[State, Batch], tuple[State, Metrics]]


class Job(NamedTuple):
    """All that stays the same while a run trains."""

    config: ConfigDict
    system: System
    model: nn.Module
    mesh: Mesh
    program: Program
    batches: samples.Batches
    held_out: Sequence[VideoRecord]
    run: RunDir
    steps: int


def start_distributed(flag: bool) -> None:
    """Joins this process to the others of its run; comes before anything else that uses JAX.

    Nothing happens unless `flag` or JAX_COORDINATOR_ADDRESS asks for it. Under Slurm, Open MPI,
    Kubernetes or on a TPU pod JAX finds out by itself who the others are; elsewhere
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say so.
    """
    if not flag and "JAX_COORDINATOR_ADDRESS" not in os.environ:
        return
    numbers = [os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")]
    count, index = (None if number is None else int(number) for number in numbers)
    try:
        jax.distributed.initialize(num_processes=count, process_id=index)
    except ValueError as error:
        raise ValueError(
            f"Training by several processes could not start: {error} Set JAX_COORDINATOR_ADDRESS "
            f"(host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID for each of them."
        ) from error


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains a recipe, or goes on from the workdir's newest checkpoint.

    Args:
        config: A recipe, see `jaxvos.recipe`.
        workdir: The run's folder, which all processes share.
        devices: Those to train on; all by default.
        progress: Whether to show a progress bar.

    Returns:
        {"step": the last one done, "steps", "J": best mean J or None, "weights": file or None,
        "seconds", "stopped": whether SIGTERM ended it early}.
    """
    begin = time.perf_counter()
    first = jax.process_index() == 0
    with RunDir(workdir, config) as run, _batches(config) as batches:
        job = _job(config, devices or jax.devices(), run, batches)
        state = _start(job)
        shown = progress and first
        with _termination() as asked, TrainingBar(job.steps, int(state.step), shown) as bar:
            state = _loop(job, state, asked, bar)
        run.finish()
        step, stopped = int(state.step), int(state.step) < job.steps
        if stopped and first:
            done = f"Stopped by SIGTERM; step {step} of {job.steps} is saved in {run.path}."
            print(f"{done} The same command goes on from there.", file=sys.stderr)
        return {
            "step": step,
            "steps": job.steps,
            "J": run.best_j,
            "weights": str(run.weights) if run.weights.is_file() else None,
            "seconds": round(time.perf_counter() - begin, 1),
            "stopped": stopped,
        }


@contextmanager
def _batches(config: ConfigDict) -> Iterator[samples.Batches]:
    batches = samples.training_batches(
        config.data,
        batch=config.batch,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    try:
        yield batches
    finally:
        batches.close()


def _job(
    config: ConfigDict, devices: Sequence[jax.Device], run: RunDir, batches: samples.Batches
) -> Job:
    system = get(config.system)
    model = system.model(**recipe.model_options(config))
    mesh = Mesh(np.asarray(devices), ("data",))
    if config.batch % mesh.size:
        raise ValueError(
            f"A batch of {config.batch} cannot be shared by {mesh.size} devices: "
            f"set batch to a multiple of {mesh.size}."
        )
    steps = config.steps or config.epochs * batches.steps_per_epoch
    program = compiled(config, system, model, mesh, steps, batches.steps_per_epoch)
    evaluation = config.evaluation
    held_out = sources.videos(evaluation.videos, split="val") if evaluation.every else ()
    return Job(config, system, model, mesh, program, batches, held_out, run, steps)


def _start(job: Job) -> State:
    """The newest checkpoint's state, with the data where they were then; else the first one."""
    new = partial(initialise, job.system, job.model, job.config.seed)
    if job.run.newest is not None:
        shapes = jax.eval_shape(lambda: job.program.make(new()))
        state, place = job.run.restore(shapes, NamedSharding(job.mesh, PartitionSpec()))
        job.batches.set_state(place)
        return state
    variables = jax.device_get(new())
    if job.config.init:
        variables = pretrained(job.config.init, job.config.system, variables)
    return job.program.make(variables)


def _loop(job: Job, state: State, asked: threading.Event, bar: TrainingBar) -> State:
    """Steps until the end or until SIGTERM asks to stop; the last state, which is saved."""
    config, run, batches = job.config, job.run, job.batches
    watch = Watch(run)
    for number in range(int(state.step) + 1, job.steps + 1):
        batch = next(batches)
        names = batch.pop("names")
        state, metrics = job.program.step(state, placed(batch, job.mesh))
        watch.add(number, names, metrics)
        last, stop = number == job.steps, run.must_stop(number, asked)
        measure = config.evaluation.every and (last or number % config.evaluation.every == 0)
        save = stop or last or measure or number % config.checkpoint_every == 0
        if save or number % config.log_every == 0:
            numbers = watch.checked()
            bar.show(number, numbers["loss"], config.batch, batches.waited_s)
            run.log(number, numbers | bar.speeds)
        if save:
            variables = state.variables
            j = mean_j(job.system, job.model, variables, job.held_out, config) if measure else None
            run.save(number, state, batches.get_state(), j)
            bar.leave_out()
        if stop:
            break
    return state


def compiled(
    config: ConfigDict,
    system: System,
    model: nn.Module,
    mesh: Mesh,
    steps: int,
    steps_per_epoch: int,
) -> Program:
    """The functions of a run, jitted over a ("data",) mesh; nothing is computed yet."""
    shapes = jax.eval_shape(partial(initialise, system, model, config.seed))
    optimizer = optim.build(
        config.optimizer, shapes["params"], steps=steps, steps_per_epoch=steps_per_epoch
    )
    copied, shared = PartitionSpec(), PartitionSpec("data")

    def make(variables: Variables) -> State:
        params, statistics = variables["params"], variables.get("batch_stats", {})
        return State(jnp.zeros([], jnp.int32), params, statistics, optimizer.init(params))

    def gradients(state: State, batch: Batch, seed: jax.Array) -> tuple[Any, Any, Metrics]:
        def objective(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
            outputs, changed = model.apply(
                {"params": params, "batch_stats": state.statistics},
                *inputs_of(system, batch),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": seed},
            )
            loss, metrics = system.loss(outputs, batch)
            return loss, (changed.get("batch_stats", {}), {"loss": loss} | metrics)

        grads, (statistics, metrics) = jax.grad(objective, has_aux=True)(state.params)
        return grads, statistics, metrics

    def gradients_by_device(state: State, batch: Batch, seed: jax.Array) -> Any:
        seed = jax.random.fold_in(seed, jax.lax.axis_index("data"))
        return jax.lax.pmean(gradients(state, batch, seed), "data")

    # Under plain jit a mean over the batch, so BatchNorm's too, is one over all devices.
    if config.batch_norm == "device":
        gradients_of = jax.shard_map(
            gradients_by_device,
            mesh=mesh,
            in_specs=(copied, shared, copied),
            out_specs=copied,
            check_vma=False,
        )
    elif config.batch_norm == "global":
        gradients_of = gradients
    else:
        raise ValueError(f"batch_norm is {config.batch_norm!r}; there are 'global' and 'device'.")

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        seed = jax.random.fold_in(jax.random.key(config.seed), state.step)
        grads, statistics, metrics = gradients_of(state, batch, seed)
        updates, memory = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = metrics | {"gradient_norm": optax.tree.norm(grads)}
        return State(state.step + 1, params, statistics, memory), metrics

    everywhere = NamedSharding(mesh, copied)
    return Program(
        jax.jit(make, out_shardings=everywhere),
        jax.jit(step, donate_argnums=0, out_shardings=everywhere),
    )


def placed(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch as arrays that are spread over all devices of the mesh."""
    spread = NamedSharding(mesh, PartitionSpec("data"))
    place = jax.make_array_from_process_local_data
    return {name: place(spread, part) for name, part in batch.items()}


def mean_j(
    system: System,
    model: nn.Module,
    variables: Variables,
    videos: Sequence[VideoRecord],
    config: ConfigDict,
) -> float:
    """Mean J of videos by the recipe's inference protocol, at threshold 0.5.

    Every frame counts; per video first, then over the videos. Each process computes it with its
    own copy of the weights, so that none waits for another.
    """
    own = jax.tree.map(lambda leaf: leaf.addressable_data(0), variables)
    segment = system.segmenter(model, own, **config.segmenter)
    means = []
    for record in videos:
        video = Video(record.frames, name=record.name)
        scores = segment(with_flow(video, "dis") if "flow" in system.reads else video)
        pairs = zip(scores, record.masks, strict=True)
        means.append(np.mean([region_similarity(s > 0.5, m != 0) for s, m in pairs]))
    return float(np.mean(means))


@contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the loop can save and end; the old handler comes back."""
    asked = threading.Event()
    # Only the main thread may take signals; and of several processes JAX takes them, to have all
    # stop at the same step (see `RunDir.must_stop`).
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
