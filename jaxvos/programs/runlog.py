"""What a run reports as it goes: metrics.jsonl and, with tensorboardX, TensorBoard's files."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxvos.whole_file import whole_file


class RunLog:
    """Appends numbers to a run's metrics.jsonl, and the same to its tensorboard/."""

    def __init__(self, folder: Path, after: int) -> None:
        """Opens the log of a run that goes on after step `after` (0: of a new one).

        Lines of later steps are dropped: the steps were lost with a killed process, and come again.
        """
        self._path = folder / "metrics.jsonl"
        self._forget(after)
        self._board = _open_board(folder / "tensorboard", after)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Appends {"step": step, **numbers} as one line, whole or not at all."""
        line = json.dumps({"step": step, **numbers}) + "\n"
        with self._path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, line.encode())
            except OSError as error:
                file.truncate(end)
                raise OSError(
                    error.errno, f"{error.strerror} (step {step})", str(self._path)
                ) from None
        if self._board is not None:
            self._board.write(step, numbers)

    def close(self) -> None:
        """Closes the TensorBoard file."""
        if self._board is not None:
            self._board.close()

    def _forget(self, after: int) -> None:
        if not self._path.is_file():
            return
        lines = self._path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        write_whole(self._path, "".join(ln for ln in whole if json.loads(ln)["step"] <= after))


class Board:
    """Writes scalars to a TensorBoard file, in this thread.

    tensorboardX's own SummaryWriter writes from a thread that dies on a full disk, and from then on
    blocks whoever logs for ever. This one raises.
    """

    def __init__(self, folder: Path, after: int) -> None:
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        # TensorBoard looks for "tfevents". With the process in its name, a run that goes on within
        # the second gets a file of its own.
        name = f"events.out.tfevents.{int(time.time())}.{os.getpid()}"
        self._file = RecordWriter(str(folder / name))
        self._append(file_version="brain.Event:2")
        # TensorBoard drops what an earlier process wrote of steps from here on.
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._append(step=after + 1, session_log=restart)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes {tag: value} of a step."""
        values = [self._summary.Value(tag=tag, simple_value=x) for tag, x in numbers.items()]
        self._append(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        """Closes the file; all of it is on disk already."""
        self._file.close()

    def _append(self, **event: Any) -> None:
        self._file.write(self._event(wall_time=time.time(), **event).SerializeToString())
        self._file.flush()


def _open_board(folder: Path, after: int) -> Board | None:
    try:
        return Board(folder, after)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tensorboardX":
            raise
        hint = 'no TensorBoard files: pip install "jaxvos[tensorboard]" for them.'
        print(f"metrics.jsonl holds the run's numbers; {hint}", file=sys.stderr)
        return None


def write_whole(path: Path, text: str) -> None:
    """Puts `text` at `path` such that a crash or a full disk leaves the old file or the new one."""
    with whole_file(path, synced=True) as partial:
        partial.write_text(text)


def _write_all(file: Any, data: bytes) -> None:
    while data:  # a nearly full disk takes a part first and says no then
        data = data[file.write(data) :]
