"""Looks after the numbers of training's steps: none may be infinite, none is waited for early."""

import collections
import json

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvos.programs.rundir import RunDir
from jaxvos.typing import Metrics

AHEAD = 2
"""Steps that may be under way on the devices when the next batch is asked for: enough to keep them
busy, few enough that a host which waits for data says something about the data."""


class NonFiniteLossError(ValueError):
    """The loss or its gradient became NaN or infinite; names the step and its records."""


class Watch:
    """Keeps steps' numbers on the devices, and their records' names, until somebody looks."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._steps: collections.deque = collections.deque()

    def add(self, number: int, names: np.ndarray, metrics: Metrics) -> None:
        """Notes a step; waits only for the one `AHEAD` steps before it."""
        self._steps.append((number, names, metrics))
        if len(self._steps) > AHEAD:
            jax.block_until_ready(self._steps[-1 - AHEAD][-1])

    def checked(self) -> dict[str, float]:
        """The means of the numbers noted since the last call, all of which are finite."""
        sums: dict[str, list[float]] = {}
        for number, names, metrics in self._steps:
            values = {k: float(v) for k, v in jax.device_get(metrics).items()}
            for what in ("loss", "gradient_norm"):
                if not np.isfinite(values[what]):
                    records = from_all_processes(names)
                    self._run.keep_bad_batch(number, values, records)
                    raise NonFiniteLossError(
                        f"Step {number} has a {what} of {values[what]}; it is not saved. Its "
                        f"records ({self._run.bad_batch} lists them): {', '.join(records)}."
                    )
            for name, value in values.items():
                sums.setdefault(name, []).append(value)
        self._steps.clear()
        return {name: sum(values) / len(values) for name, values in sums.items()}


def from_all_processes(names: np.ndarray) -> list[str]:
    """This process's names and those of the others, who all have to ask at the same time."""
    if jax.process_count() == 1:
        return names.tolist()
    text = json.dumps(names.tolist()).encode()
    gather = multihost_utils.process_allgather
    width = int(gather(np.int32(len(text))).max())
    texts = gather(np.frombuffer(text.ljust(width), np.uint8))
    return [name for text in texts for name in json.loads(text.tobytes())]
