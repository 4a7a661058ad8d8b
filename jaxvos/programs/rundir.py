"""The folder of a training run: its recipe, checkpoints, log and weights."""

import json
import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from jaxvos import __version__, recipe
from jaxvos.checkpoints import read_weights, save_weights
from jaxvos.programs.runlog import RunLog, write_whole

UNMEASURED = -1.0
"""Stands for J at a checkpoint without an evaluation: Orbax warns of those without a number."""
TRASH = "trash"
"""Where checkpoints go that are not kept: moved there in one piece, so that a kill amid the removal
leaves none that looks whole; then removed."""
MAY_CHANGE = ("data.workers", "data.threads", "log_every", "checkpoint_every", "evaluation.every")
"""Keys of the recipe that may differ when a run goes on: they do not change what is learned."""


class RunDir:
    """A run's folder; process 0 writes it, all processes take part in the checkpoints.

    Checkpoints and weights are written in the background. That one could not be written is said
    by the next `save`, by `finish`, or at the end of the `with` block.

    Attributes:
        newest: Step of the checkpoint that the run goes on from; None for a new run.
        best_j: Best mean J so far, or None.
        weights: The weight file that the run leaves.
        bad_batch: Where the records of a batch with a non-finite loss are listed.
    """

    def __init__(self, path: str | Path, config: ConfigDict) -> None:
        self.path = Path(path).absolute()
        self.weights = self.path / "weights.safetensors"
        self.bad_batch = self.path / "non_finite.json"
        self._config = config
        self._writes = jax.process_index() == 0
        _check_writable(self.path)
        self._checkpoints = self.path / "checkpoints"
        self.newest = max(self._steps_on_disk(), default=None)
        self._check_recipe()
        self._empty_trash()
        self._manager = _checkpoint_manager(self._checkpoints)
        self._best = self._best_on_disk()
        self._log = RunLog(self.path, self.newest or 0) if self._writes else None
        self._saving: int | None = None
        self._writer = ThreadPoolExecutor(1, "weights")
        self._writing: Future | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        closing = [self.finish, self._writer.shutdown, self._manager.close]
        failures = []
        for close in closing if self._log is None else [*closing, self._log.close]:
            try:
                close()
            except Exception as failure:
                failures.append(failure)
        if failures and error is None:
            raise failures[0]
        for failure in failures:
            if str(failure) not in str(error):  # Orbax says at the end again what went wrong
                error.add_note(f"Besides: {failure}")

    @property
    def best_j(self) -> float | None:
        return self._best[1] if self._best else None

    def restore(self, shapes: Any, sharding: Sharding) -> tuple[Any, dict[str, Any]]:
        """(state, the data's place) of the newest checkpoint, on whatever devices there are now."""
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
        )
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(self.newest, args=args)
        step, j = self._best or (self.newest, None)
        if self._step_of_weights() != step:  # the last process ended between checkpoint and weights
            same = step == self.newest
            best = restored if same else self._manager.restore(step, args=args)
            self._save_weights(step, best.state, j)
        return restored.state, restored.data

    def save(self, step: int, state: Any, place: Mapping[str, Any], j: float | None) -> None:
        """Begins to write a checkpoint, and the weights if none has been better so far.

        The state's memory may be used again when this returns.
        """
        self.finish()
        if j is not None:
            self.log(step, {"J": j})
        self._saving = step
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if shutil.disk_usage(self.path).free < needed:  # Orbax would say so in a thousand lines
            raise self._lost(f"Step {step}", f"{needed / 1e6:.1f} MB are needed.")
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(dict(place))
                ),
                metrics={"J": UNMEASURED if j is None else j},
                force=True,  # that a step exists already is an error, not a reason to do nothing
            )
        except Exception as error:
            raise self._lost(f"Step {step}", error) from error
        if self._best is None or (j is not None and j >= self._best[1]):
            self._save_weights(step, state, j)
        if j is not None and (self._best is None or j >= self._best[1]):
            self._best = step, j

    def finish(self) -> None:
        """Returns once everything is on disk; OSError if it cannot be."""
        if self._saving is None:
            return
        try:
            self._manager.wait_until_finished()
            if self._writing is not None:
                self._writing.result()
        except Exception as error:
            raise self._lost(f"Step {self._saving}", error) from error
        self._saving = self._writing = None
        self._empty_trash()

    def must_stop(self, step: int, asked: threading.Event) -> bool:
        """Whether to save and end after this step; with several processes, all say the same."""
        if jax.process_count() > 1:
            return self._manager.reached_preemption(step)
        return asked.is_set()

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Appends one line of numbers to metrics.jsonl, and the same for TensorBoard."""
        if self._log is None:
            return
        try:
            self._log.write(step, numbers)
        except OSError as error:
            raise self._lost(f"The log of step {step}", error) from error

    def keep_bad_batch(self, step: int, numbers: Mapping[str, float], names: list[str]) -> None:
        """Lists the records of the batch whose loss was not finite."""
        if self._writes:
            values = {name: str(value) for name, value in numbers.items()}  # JSON knows no NaN
            report = {"step": step, "records": names, "numbers": values}
            write_whole(self.bad_batch, json.dumps(report, indent=1))

    def _save_weights(self, step: int, state: Any, j: float | None) -> None:
        if not self._writes:
            return
        config = self._config
        metadata = {
            "system": config.system,
            "options": json.dumps(recipe.model_options(config)),
            "segmenter": json.dumps(config.segmenter.to_dict()),
            "version": __version__,
            "license": "the trainer's: depends on the data and on the weights started from",
            "source": f"trained by jaxvos on {config.data.videos}",
            "step": str(step),
            "J": "not measured" if j is None else f"{j:.6f}",
            "recipe": recipe.to_json(config),
        }
        self._saving = step
        variables = jax.device_get(state.variables)
        self._writing = self._writer.submit(save_weights, self.weights, variables, metadata)

    def _step_of_weights(self) -> int | None:
        if not self.weights.is_file():
            return None
        return int(read_weights(self.weights)[1].get("step", -1))

    def _best_on_disk(self) -> tuple[int, float] | None:
        step = self._manager.best_step()
        j = UNMEASURED if step is None else self._manager.metrics(step)["J"]
        return None if j == UNMEASURED else (step, j)

    def _steps_on_disk(self) -> list[int]:
        """Steps of the checkpoints that are whole: Orbax renames a folder when it is complete."""
        if not self._checkpoints.is_dir():
            return []
        return sorted(int(p.name) for p in self._checkpoints.iterdir() if p.name.isdigit())

    def _empty_trash(self) -> None:
        trash = self._checkpoints / TRASH
        if self._writes and trash.is_dir():
            shutil.rmtree(trash)

    def _check_recipe(self) -> None:
        """Writes the recipe of a new run; a run that goes on must have the same one."""
        path = self.path / "recipe.json"
        text = recipe.to_json(self._config)
        if self.newest is None:
            if self._writes:
                write_whole(path, text)
            return
        ours, theirs = recipe.flat(json.loads(text)), recipe.flat(json.loads(path.read_text()))
        differ = [k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)]
        differ = sorted(k for k in differ if k not in MAY_CHANGE)
        if differ:
            changes = ", ".join(f"{k}: {theirs.get(k)!r} -> {ours.get(k)!r}" for k in differ)
            raise ValueError(
                f"{self.path} holds a run with another recipe ({changes}). Take another workdir, "
                f"or the same recipe to go on."
            )

    def _lost(self, what: str, why: object) -> OSError:
        """The error that something cannot be saved, after which nothing more is."""
        self._saving = None
        whole = ", ".join(map(str, self._steps_on_disk())) or "none yet"
        free = shutil.disk_usage(self.path).free / 1e6
        return OSError(
            f"{what} could not be saved in {self.path}, where {free:.1f} MB are free: {why}\n"
            f"Whole checkpoints there, by step: {whole}. Make room and start the same command "
            f"again to go on from the last one."
        )


def _checkpoint_manager(path: Path) -> ocp.CheckpointManager:
    """Keeps the latest checkpoint and the one of the best J, and drops the others."""

    def j(metrics: Mapping[str, float]) -> float:
        return metrics["J"]

    best = policies.BestN(get_metric_fn=j, n=1)
    return ocp.CheckpointManager(
        path,
        options=ocp.CheckpointManagerOptions(
            best_fn=j,
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),
            todelete_subdir=TRASH,
            cleanup_tmp_directories=True,  # what a killed process left half-written
        ),
    )


def _check_writable(path: Path) -> None:
    probe = path / f".probe.{jax.process_index()}.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as error:
        raise OSError(f"The workdir {path} cannot be written to: {error}") from error
