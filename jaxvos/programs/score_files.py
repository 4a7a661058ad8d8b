"""Scores files of masks against a data set's annotations, on all cores.

Results go to per_frame.csv, per_sequence.csv and summary.json, and to a table on the screen.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxvos.davis_layout import SequenceFiles, some
from jaxvos.metrics.protocols import find_predictions, get, summarise
from jaxvos.metrics.reading import FIXES
from jaxvos.metrics.scoring import DEFAULTS, Options, Scores
from jaxvos.programs.results import RESULTS, show, table, write_results


def evaluate_predictions(
    root: str | Path,
    predictions: str | Path,
    *,
    protocol: str = "davis16",
    out: str | Path | None = None,
    workers: int | None = None,
    sequences: Iterable[str] | None = None,
    protocol_options: Options = DEFAULTS,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """The summary of a folder of masks SEQUENCE/FRAME.png; see `jaxvos.programs.evaluate.evaluate`.

    Masks of the frames that the protocol leaves out need not be there.
    """
    chosen = chosen_sequences(root, protocol, sequences, protocol_options)
    masks = find_predictions(
        Path(predictions),
        chosen,
        get(protocol).frames,
        others_allowed=sequences is not None,
        may_miss="missing" in protocol_options.fix,
    )
    prepare_results(out, overwrite)
    scores = scored(chosen, masks, protocol, protocol_options, workers, progress)
    origin = {"data": place_of(root), "predictions": place_of(predictions)}
    return reported(scores, protocol, protocol_options, origin, out, progress)


def chosen_sequences(
    root: str | Path, protocol: str, sequences: Iterable[str] | None, options: Options
) -> list[SequenceFiles]:
    """The sequences to score, each of which can be scored."""
    unknown = [fix for fix in options.fix if fix not in FIXES]
    if unknown:
        raise ValueError(f"No fix is called {some(unknown)}. There are: {', '.join(FIXES)}.")
    rules = get(protocol)
    chosen = rules.find(Path(root), None if sequences is None else list(sequences))
    for files in chosen:
        rules.frames(files)
    return chosen


def prepare_results(
    out: str | Path | None, overwrite: bool, masks_of: Sequence[SequenceFiles] = ()
) -> None:
    """Makes sure before any work that results can be written to the folder, and none is lost."""
    if out is None:
        return
    out = Path(out)
    results = [out / name for name in RESULTS if (out / name).exists()]
    masks = [
        path for files in masks_of for path in sorted((out / "masks" / files.name).glob("*.png"))
    ]
    if not overwrite and (results or masks):
        raise FileExistsError(
            f"There already is {some([*results, *masks])}. Choose another folder, or allow to "
            f"overwrite it."
        )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):  # says now whether files can be written
        pass
    if masks_of:  # masks that are older than the results, or newer, must not be taken for theirs
        for path in (*results, *masks):
            path.unlink()


def scored(
    chosen: Sequence[SequenceFiles],
    masks: Mapping[str, Mapping[str, Path]],
    protocol: str,
    options: Options,
    workers: int | None,
    progress: bool,
) -> list[Scores]:
    """The scores of each sequence, in order."""
    frames, done = get(protocol).frames, {}
    with frames_bar(progress, sum(len(frames(files)) for files in chosen)) as advance:
        for each in _score_all(chosen, masks, protocol, options, _processes(workers, len(chosen))):
            done[each.sequence] = each
            advance(len(each.frames), each.sequence)
    return [done[files.name] for files in chosen]


def _processes(workers: int | None, tasks: int) -> int:
    """How many processes to use for a number of tasks."""
    if workers is not None and workers < 0:
        raise ValueError(f"The number of workers is 0 or more, not {workers}.")
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)  # the cores we may use; not on macOS
        workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(workers, tasks)


def _score(
    files: SequenceFiles, masks: Mapping[str, Path], protocol: str, options: Options
) -> Scores:
    """One sequence's scores: what a worker is sent."""
    return get(protocol).score(files, masks, options)


def _score_all(
    chosen: Sequence[SequenceFiles],
    masks: Mapping[str, Mapping[str, Path]],
    protocol: str,
    options: Options,
    processes: int,
) -> Iterator[Scores]:
    """The scores of each sequence as they become ready; the longest ones are begun first."""
    if processes <= 1:
        yield from (_score(files, masks[files.name], protocol, options) for files in chosen)
        return
    longest_first = sorted(chosen, key=lambda files: -len(files.frames))
    # A fork of a process with JAX's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            tasks = [
                pool.submit(_score, files, masks[files.name], protocol, options)
                for files in longest_first
            ]
            for task in as_completed(tasks):
                yield task.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A scoring process died. Either memory ran out, or this is a script that evaluates "
                'when it is imported: call under `if __name__ == "__main__":`, or with workers=1.'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def reported(
    scores: Sequence[Scores],
    protocol: str,
    options: Options,
    origin: Mapping[str, Any],
    out: str | Path | None,
    progress: bool,
) -> dict[str, Any]:
    """The summary, after writing and showing the results."""
    summary = {**summarise(scores, protocol, options), **origin}
    if out is not None:
        write_results(Path(out), scores, summary)
    if progress:
        show(table(summary))
    return summary


def place_of(path: str | Path) -> str:
    """A path that means the same from everywhere, since the report looks there for pictures."""
    return str(Path(path).absolute())


@contextmanager
def frames_bar(show: bool, frames: int) -> Iterator[Callable[[int, str], None]]:
    """Gives a function that is told how many frames of which sequence are done."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not show) as bar:
        task = bar.add_task("evaluating", total=frames)

        def advance(count: int, name: str) -> None:
            bar.update(task, advance=count, description=name)

        yield advance
