"""A file that appears whole or not at all."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path, *, synced: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to; what is there takes its place when the block ends.

    When it ends in an exception nothing is left, and `path` is as it was.

    Args:
        path: Where the file belongs.
        synced: Whether the disk must have it first, so that a crash of the machine, too, leaves the
            old file or the new one.
    """
    path = Path(path)
    # Threads of one process may be at the same file, too.
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{threading.get_ident()}")
    try:
        yield partial
        if synced:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
