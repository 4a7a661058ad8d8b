"""A disk that fills up while a run trains: a clear error, and nothing lost that was whole."""

import contextlib
import gc
import io
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from jaxvos.checkpoints import read_weights
from jaxvos.programs.rundir import RunDir
from jaxvos.programs.train import State
from jaxvos.systems import SYSTEMS
from tests.train_process import (
    SPECK,
    before_step,
    logged,
    remember_programs,
    saved,
    speck,
    steps_kept,
    train,
)

MB = 1_000_000


class SmallDisk:
    """A file system of 24 MB in memory; only root may make one."""

    error = "No space left"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = ["-t", "tmpfs", "-o", "size=24m", "tmpfs"]
        subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)

    def fill(self, left: int) -> None:
        """Leaves so many bytes free."""
        with (self.folder / "filling").open("ab", buffering=0) as file:
            file.write(bytes(shutil.disk_usage(self.folder).free - left))

    def free(self) -> None:
        """Makes room again."""
        (self.folder / "filling").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


class ShortFiles:
    """Stands in for a small disk where none may be made: no file may grow beyond what is left."""

    error = "File too large"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._filled = contextlib.ExitStack()

    def fill(self, left: int) -> None:
        """Allows files of a third of so many bytes: an array of the tests' state does not fit."""
        patch = self._filled.enter_context(pytest.MonkeyPatch.context())
        usage = shutil.disk_usage(self.folder)._replace(free=left)
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
            self._filled.enter_context(redirect(io.StringIO()))  # pytest's own are files as well
        # What is there fills its last page on a full disk, too.
        page = resource.getpagesize() if any(self.folder.iterdir()) else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(left // 3, page), self._before[1]))

    def free(self) -> None:
        """Allows files of any size again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)
        self._filled.close()

    def close(self) -> None:
        self.free()


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            SmallDisk(Path(folder)).close()
        except (OSError, subprocess.CalledProcessError):
            return False
        return True


@pytest.fixture(params=(ShortFiles, SmallDisk) if can_mount() else (ShortFiles,))
def disk(request, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    small = request.param(folder)
    yield small
    small.close()


def state_of(step):
    """A state of 0.8 MB that does not compress; being many arrays, a checkpoint of it is larger."""
    w, trace = np.random.default_rng(step).normal(size=(2, 100_000)).astype(np.float32)
    many = {f"a{i}": np.float32(i) for i in range(300)}
    return jax.device_put(State(np.int32(step), {"w": w}, many, {"trace": trace}))


def weights_of(folder):
    variables, metadata = read_weights(folder / "weights.safetensors")
    return metadata["step"], variables["params"]["w"]


# Orbax leaves callbacks into a closed event loop behind when it gives a save up.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_up_amid_a_save_costs_no_earlier_checkpoint(disk):
    workdir = disk.folder / "run"
    message = r"(?s)Step 2 could not be saved in .*run.*by step: 1\. Make"
    with pytest.raises(OSError, match=message), RunDir(workdir, speck()) as run:
        run.save(1, state_of(1), {"step": 1}, 0.5)
        run.finish()
        disk.fill(left=int(0.82 * MB))  # it looks as if there were room
        run.save(2, state_of(2), {"step": 2}, 0.6)
    disk.free()
    assert "1" in steps_kept(workdir)
    assert weights_of(workdir)[0] in ("1", "2"), "whole: either the old ones or the new ones"
    with RunDir(workdir, speck()) as run:
        assert (run.newest, run.best_j) == (1, 0.5)
        shapes = jax.eval_shape(lambda: state_of(1))
        state, place = run.restore(shapes, SingleDeviceSharding(jax.devices()[0]))
        run.finish()
        assert place == {"step": 1}
        np.testing.assert_array_equal(state.params["w"], state_of(1).params["w"])
        run.save(2, state_of(2), {"step": 2}, 0.6)
    assert steps_kept(workdir) == ["2"]
    np.testing.assert_array_equal(weights_of(workdir)[1], state_of(2).params["w"])
    gc.collect()  # so that they are met here


def test_a_save_that_cannot_fit_is_not_begun_and_says_what_it_needs(disk):
    workdir = disk.folder / "run"
    with RunDir(workdir, speck()) as run:
        run.save(1, state_of(1), {}, None)
        run.finish()
        disk.fill(left=MB // 2)
        with pytest.raises(OSError, match=r"where 0\.\d MB are free: 0\.8 MB are needed"):
            run.save(2, state_of(2), {}, None)
    assert steps_kept(workdir) == ["1"]
    assert weights_of(workdir)[0] == "1"


@pytest.mark.parametrize("tensorboard", [True, False])
def test_a_full_disk_leaves_whole_lines_in_the_log(disk, monkeypatch, tensorboard):
    if not tensorboard:  # which then cannot take the last bytes
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        monkeypatch.setitem(sys.modules, "tensorboardX.proto", None)
    workdir = disk.folder / "run"
    message = rf"(?s)The log of step \d+ could not be saved in .*{disk.error}.*by step: none yet"
    with pytest.raises(OSError, match=message), RunDir(workdir, speck()) as run:
        disk.fill(left=3 * 4096)
        for step in range(1, 100_000):
            run.log(step, {"loss": 1 / step, "image_loss": 0.5})
    disk.free()
    steps = [line["step"] for line in logged(workdir)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 10
    assert (workdir / "metrics.jsonl").read_bytes().endswith(b"}\n")


def test_a_run_stopped_by_a_full_disk_goes_on_to_the_same_end(disk, tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEMS, "speck", SPECK)
    remember_programs(monkeypatch.setattr)
    workdir = disk.folder / "run"

    def fill_once_step_3_is_kept():  # it is written beside the steps that follow
        while steps_kept(workdir) != ["3"]:
            time.sleep(0.01)
        disk.fill(left=0)

    with monkeypatch.context() as patch:
        before_step(6, fill_once_step_3_is_kept, patch.setattr)
        with pytest.raises(OSError, match=r"Step 6 could not be saved in"):
            train(workdir, ["log_every=100"], devices=1)
    disk.free()
    assert steps_kept(workdir) == ["3"]
    assert train(workdir, ["log_every=100"], devices=1)["step"] == 8
    train(tmp_path / "whole", ["log_every=100"], devices=1)
    ours, theirs = saved(workdir, 8), saved(tmp_path / "whole", 8)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path], err_msg=path)


def test_a_workdir_on_a_full_disk_is_refused_at_once(disk):
    disk.fill(left=0)
    with pytest.raises(OSError, match=r"The workdir .*run cannot be written to"):
        RunDir(disk.folder / "run", speck())
