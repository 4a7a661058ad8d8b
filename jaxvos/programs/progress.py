"""Progress bars of the programs, on the error stream so that results can be piped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ETA_PERIOD_S = 3600.0
"""The time left is estimated from this much of the past, evaluations and saving included."""

BAR = 6
"""Characters of the bar itself: with it, all that a run says of itself fits in a line of 80."""


class TrainingBar:
    """Shows a run: loss, steps/s, images/s, the share of time spent waiting for data, time left.

    Attributes:
        speeds: The last numbers shown, for the log: "steps_per_s", "images_per_s", "data_wait".
    """

    def __init__(self, steps: int, done: int, shown: bool) -> None:
        self.speeds: dict[str, float] = {}
        self._then, self._done, self._waited_s = time.perf_counter(), done, 0.0
        text = (
            "loss {task.fields[loss]:.4f} {task.fields[steps]:.2f} steps/s "
            "{task.fields[images]:.1f} images/s data wait {task.fields[wait]:.0%}"
        )
        columns = (BarColumn(BAR), MofNCompleteColumn(), TextColumn(text))
        left = TimeRemainingColumn(elapsed_when_finished=True)
        self._bar = Progress(
            *columns,
            left,
            console=Console(stderr=True),
            disable=not shown,
            get_time=time.perf_counter,
            speed_estimate_period=ETA_PERIOD_S,
        )
        self._task = self._bar.add_task(
            "", total=steps, completed=done, loss=float("nan"), steps=0.0, images=0.0, wait=0.0
        )

    def show(self, step: int, loss: float, batch: int, waited_s: float) -> None:
        """Moves the bar to `step`; speeds are those since the last call."""
        seconds = max(time.perf_counter() - self._then, 1e-9)
        speed = (step - self._done) / seconds
        wait = (waited_s - self._waited_s) / seconds
        self._then, self._done, self._waited_s = time.perf_counter(), step, waited_s
        self.speeds = {"steps_per_s": speed, "images_per_s": speed * batch, "data_wait": wait}
        self._bar.update(
            self._task, completed=step, loss=loss, steps=speed, images=speed * batch, wait=wait
        )

    def leave_out(self) -> None:
        """Leaves the time since `show` out of the speeds: it went into saving or evaluation."""
        self._then = time.perf_counter()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


@contextmanager
def frames_bar(title: str, total: int, shown: bool) -> Iterator[Callable[[], None]]:
    """A function that counts one frame done on a bar with frames per second and the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(title, total=total, speed="")

        def advance() -> None:
            bar.advance(task)
            state = bar.tasks[0]
            bar.update(task, speed=f"{state.completed / max(state.elapsed, 1e-9):.1f} frames/s")

        yield advance
