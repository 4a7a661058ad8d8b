"""A folder of results that appears whole or not at all."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MARK = "summary.json"
"""Every folder of ours holds one; without it, what lies there is not ours to replace."""


@contextmanager
def whole_folder(
    out: str | Path, products: Sequence[str], *, overwrite: bool = False
) -> Iterator[Path]:
    """An empty folder to build `products` in, which move to `out` together when the block ends.

    When it ends in an exception, Ctrl-C or SIGTERM, nothing of it is left and `out` is as it was.
    What else lies in `out` is never touched.

    Args:
        out: Where the results belong; made if need be.
        products: The names of files and folders that a run may leave there, "summary.json" among
            them.
        overwrite: Whether all products of an earlier run are replaced.
    """
    out = Path(out)
    _check_free(out, products, overwrite)
    # Inside `out` where there is one: it may be a disk of its own, to which nothing can be renamed.
    name = f".{out.resolve().name}.partial-{os.getpid()}"
    stage = out / name if out.is_dir() else out.parent / name
    try:
        shutil.rmtree(stage, ignore_errors=True)  # of a killed process that had our number
        stage.mkdir(parents=True)
    except OSError as error:
        raise OSError(error.errno, f"Nothing can be written to {out}: {error.strerror}") from error
    try:
        with _sigterm_raises():
            yield stage
            if out.is_dir():
                _exchange(stage, out, products)
            else:
                os.rename(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _check_free(out: Path, products: Sequence[str], overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; the results need a folder.")
    there = [name for name in products if os.path.lexists(out / name)]
    if there and not overwrite:
        raise FileExistsError(
            f"{out} already holds {', '.join(there)}. Choose another folder, or overwrite."
        )
    if there and MARK not in there:
        raise FileExistsError(
            f"{out} holds {', '.join(there)} but no {MARK}, so it is not the result of an earlier "
            "run and is not overwritten. Choose another folder."
        )


def _exchange(stage: Path, out: Path, products: Sequence[str]) -> None:
    """Moves the products to `out` in place of the earlier ones; if that fails, all back."""
    old = stage / ".replaced"
    old.mkdir()
    try:
        _move(products, out, old)
        _move(products, stage, out)
    except BaseException:
        _move([name for name in products if not os.path.lexists(stage / name)], out, stage)
        _move(products, old, out)
        raise


def _move(names: Sequence[str], source: Path, target: Path) -> None:
    for name in names:
        if os.path.lexists(source / name):
            os.rename(source / name, target / name)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM is an exception, so that what was begun is cleaned up."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # signals reach the main thread only; and a handler that is there knows better
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
