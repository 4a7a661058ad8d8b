"""What benchmarks are made of: numbers with units, timing, memory, a fresh process to measure in.

A benchmark measures in processes of its own. So its memory and its compilations are nobody else's,
and the program that runs them all never takes hold of an accelerator, which would keep the others
from it.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax

import jaxvos

MB = 1e6
TOLD = 30  # lines of a failed process's error stream


class Measurement(NamedTuple):
    """One quantity of one case; of the same case several are told side by side.

    Attributes:
        case: What was measured: "3600 places, whole".
        quantity: What of it: "forward".
        unit: In what: "ms".
        values: One number for each repeat.
    """

    case: str
    quantity: str
    unit: str
    values: Sequence[float]


class Extent(NamedTuple):
    """How much a benchmark measures.

    Attributes:
        quick: The smallest sizes: it only shows that everything runs.
        accelerator: The device is a GPU or TPU.
        asked: The benchmark was named by the user, so that it may take long.
    """

    quick: bool = False
    accelerator: bool = False
    asked: bool = False


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds until the result is there, of each of `repeats` calls after one that does not count.

    The first call may compile, read files for the first time, and fill caches.
    """
    return seconds_in_turn({"": call}, repeats)[""]


def seconds_in_turn(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """`seconds` of several calls that are compared: one after the other, and so again.

    What else the machine does so slows all of them alike.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            taken[name].append(time.perf_counter() - begin)
    return taken


def peak_memory() -> int:
    """The most bytes of memory that this process has had so far: the device's, or on CPU its own.

    Not `ru_maxrss` on Linux: there a process inherits that from the one which started it.
    """
    of_device = jax.devices()[0].memory_stats()
    if of_device:
        return of_device["peak_bytes_in_use"]
    status = Path("/proc/self/status")
    if status.exists():
        line = next(ln for ln in status.read_text().splitlines() if ln.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def room() -> int:
    """Bytes of memory that a program may still take: the device's, or on CPU the machine's."""
    of_device = jax.devices()[0].memory_stats()
    if of_device:
        return of_device["bytes_limit"] - of_device["bytes_in_use"]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        line = next(ln for ln in meminfo.read_text().splitlines() if ln.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def needed(executable: jax.stages.Compiled) -> int:
    """Bytes that a compiled program holds while it runs, by the compiler's estimate."""
    memory = executable.memory_analysis()
    held = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return held - memory.alias_size_in_bytes  # outputs that take the place of arguments


def alone(
    function: Callable[..., Any], *arguments: Any, env: Mapping[str, str] | None = None
) -> Any:
    """What `function(*arguments)` returns in a fresh process; all of it must be fit for JSON.

    Args:
        function: Of a module, by whose name the process finds it.
        arguments: What it is called with.
        env: Environment variables that the process has beside ours.
    """
    call = json.dumps([function.__module__, function.__qualname__, arguments])
    command = [sys.executable, "-m", __name__, call]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(env))
    if done.returncode:
        told = "\n".join(done.stderr.splitlines()[-TOLD:])
        raise RuntimeError(
            f"{function.__qualname__}{arguments} ended with {done.returncode} in a process of its "
            f"own{' (killed: did memory run out?)' if done.returncode == -9 else ''}:\n{told}"
        )
    return json.loads(done.stdout)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment variables and `more`; a process that has them finds the jaxvos we are."""
    ours = [str(Path(jaxvos.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, ours))} | dict(more or {})


def _answer(call: str) -> None:
    """Does what `alone` asks; what else is printed meanwhile goes to the error stream."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name, arguments = json.loads(call)
    with answer:
        answer.write(json.dumps(getattr(import_module(module), name)(*arguments)))


if __name__ == "__main__":
    _answer(sys.argv[1])
