"""The folder of a run: what is kept, what a resumed run finds, and what is refused."""

import json
import os
import struct
import sys
from contextlib import contextmanager, nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from jaxvos.checkpoints import read_weights, save_weights
from jaxvos.programs.rundir import RunDir
from jaxvos.programs.train import State
from tests.train_process import speck, steps_kept

SHARDING = SingleDeviceSharding(jax.devices()[0])


def state_of(step):
    """A state whose arrays are full of the step's number."""

    def full():
        return {"layer": {"w": jnp.full((2, 3), float(step))}}

    return State(jnp.int32(step), full(), {"bn": {"mean": jnp.full(3, step / 2)}}, (full(),))


def save_all(run, scores):
    """Saves a state of each step with its J."""
    for step, j in scores.items():
        run.log(step, {"loss": 1 / step})
        run.save(step, state_of(step), {"step": step}, j)


def restored(run):
    return run.restore(jax.eval_shape(lambda: state_of(0)), SHARDING)


def weights_of(folder):
    """(step, J, value) that weights.safetensors says and holds."""
    variables, metadata = read_weights(folder / "weights.safetensors")
    values = np.unique(variables["params"]["layer"]["w"])
    assert len(values) == 1
    return metadata["step"], metadata["J"], float(values[0])


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_latest_and_the_best_checkpoint_are_kept_and_the_weights_are_the_best(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: 0.3, 2: None, 3: 0.6, 4: 0.1, 5: None})
        assert run.best_j == 0.6
    assert steps_kept(tmp_path) == ["3", "5"]
    assert weights_of(tmp_path) == ("3", "0.600000", 3.0)
    assert [(ln["step"], ln["J"]) for ln in lines_of(tmp_path) if "J" in ln] == [
        (1, 0.3),
        (3, 0.6),
        (4, 0.1),
    ]


def test_of_equals_the_later_one_is_the_best(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: 0.5, 2: 0.5, 3: 0.4})
    assert steps_kept(tmp_path) == ["2", "3"]
    assert weights_of(tmp_path)[0] == "2"


def test_without_an_evaluation_the_weights_are_those_of_the_last_checkpoint(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: None, 2: None})
        assert run.best_j is None
    assert steps_kept(tmp_path) == ["2"]
    assert weights_of(tmp_path) == ("2", "not measured", 2.0)


def test_a_resumed_run_knows_the_best_so_far_though_its_latest_has_no_j(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: 0.6, 2: None})
    with RunDir(tmp_path, speck()) as run:
        assert (run.newest, run.best_j) == (2, 0.6)
        state, place = restored(run)
        assert (int(state.step), place) == (2, {"step": 2})
        save_all(run, {3: 0.5})
        assert run.best_j == 0.6
    assert steps_kept(tmp_path) == ["1", "3"]
    assert weights_of(tmp_path) == ("1", "0.600000", 1.0)


@pytest.mark.parametrize("left", ["of a lost step", "nothing"])
def test_weights_that_a_kill_left_astray_are_made_anew_from_the_best_checkpoint(tmp_path, left):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: 0.6, 2: 0.2})
    path = tmp_path / "weights.safetensors"
    variables, metadata = read_weights(path)
    if left == "nothing":
        path.unlink()
    else:
        save_weights(path, variables, metadata | {"step": "3", "J": "0.900000"})
    with RunDir(tmp_path, speck()) as run:
        state, _ = restored(run)
        assert int(state.step) == 2
    assert weights_of(tmp_path) == ("1", "0.600000", 1.0)


def test_what_a_kill_amid_the_removal_of_a_checkpoint_left_is_cleared_away(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: None})
    trash = tmp_path / "checkpoints" / "trash" / "1"
    trash.mkdir(parents=True)
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    with RunDir(tmp_path, speck()) as run:
        assert run.newest == 1
        save_all(run, {2: None})
    assert steps_kept(tmp_path) == ["2"]


def test_the_state_may_change_as_soon_as_save_returns(tmp_path):
    @partial(jax.jit, donate_argnums=0)
    def change(state, value):
        return jax.tree.map(lambda leaf: (leaf * 0 + value).astype(leaf.dtype), state)

    with RunDir(tmp_path, speck()) as run:
        state = change(state_of(1), 7)
        run.save(1, state, {}, None)
        change(state, 9)
    with RunDir(tmp_path, speck()) as run:
        state, _ = restored(run)
    assert {float(x) for leaf in jax.tree.leaves(state) for x in leaf.ravel()} == {7.0}
    assert weights_of(tmp_path)[-1] == 7.0


def test_log_lines_of_steps_that_were_lost_go_and_half_a_line_too(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: None, 2: 0.5})
        run.log(3, {"loss": 0.1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    with RunDir(tmp_path, speck()):
        lines = [(line["step"], sorted(line)) for line in lines_of(tmp_path)]
    assert lines == [(1, ["loss", "step"]), (2, ["loss", "step"]), (2, ["J", "step"])]


def test_a_run_killed_before_its_first_checkpoint_begins_with_an_empty_log(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        run.log(1, {"loss": 0.1})
    with RunDir(tmp_path, speck("batch=4")) as run:
        assert run.newest is None
        run.log(1, {"loss": 0.2})
    assert lines_of(tmp_path) == [{"step": 1, "loss": 0.2}]
    assert json.loads((tmp_path / "recipe.json").read_text())["batch"] == 4


def test_another_recipe_in_the_same_workdir_is_refused_and_harms_nothing(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: None})
        run.log(2, {"loss": 0.1})
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = ["optimizer.momentum=0.5", "batch=4", "log_every=7"]
    message = r"another recipe \(batch: 8 -> 4, optimizer\.momentum: 0\.9 -> 0\.5\)\. Take another"
    with pytest.raises(ValueError, match=message):
        RunDir(tmp_path, speck(*changed))
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_what_does_not_change_the_training_may_differ_when_a_run_goes_on(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: None})
    changes = ["data.workers=3", "log_every=7", "checkpoint_every=5", "evaluation.every=9"]
    with RunDir(tmp_path, speck(*changes)) as run:
        assert run.newest == 1


def test_a_step_that_is_there_already_is_an_error(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: None})
        with pytest.raises(OSError, match=r"Step 1 could not be saved .* already exists"):
            run.save(1, state_of(2), {}, None)
    assert steps_kept(tmp_path) == ["1"]


def test_weights_that_cannot_be_written_are_an_error_by_the_end(tmp_path):
    (tmp_path / "weights.safetensors").mkdir()
    run = RunDir(tmp_path, speck())
    with pytest.raises(OSError, match=r"Step 1 could not be saved .*weights\.safetensors"), run:
        save_all(run, {1: None})
    assert steps_kept(tmp_path) == ["1"]


def test_a_failed_save_does_not_hide_the_error_that_ended_the_run(tmp_path):
    (tmp_path / "weights.safetensors").mkdir()
    with pytest.raises(ZeroDivisionError) as caught, RunDir(tmp_path, speck()) as run:
        save_all(run, {1: None})
        1 / 0  # noqa: B018
    assert "Besides: Step 1 could not be saved" in caught.value.__notes__[0]


@contextmanager
def nobody():
    """Within the block this process has an ordinary user's rights: root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def blocked(tmp_path, how):
    """A workdir that cannot be."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o500)
    places = {"a file": "file", "under a file": "file/run", "closed": "closed/run"}
    return "/proc/run" if how == "no disk" else tmp_path / places[how]


@pytest.mark.parametrize("how", ["a file", "under a file", "closed", "no disk"])
def test_a_workdir_that_cannot_be_written_is_refused_at_once(tmp_path, how):
    workdir = blocked(tmp_path, how)
    refused = pytest.raises(OSError, match=rf"The workdir .*{workdir} cannot be written to")
    with refused, nobody() if how == "closed" else nullcontext():
        RunDir(workdir, speck())
    assert (tmp_path / "file").read_text() == "mine"


def events(path):
    """The events of a TensorBoard file: uint64 length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_tensorboard_gets_the_same_numbers_and_forgets_lost_steps(tmp_path):
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: None, 2: 0.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    version, begin, *steps = events(path)
    assert version.file_version == "brain.Event:2"
    assert (begin.session_log.status, begin.step) == (1, 1)
    seen = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in steps]
    assert seen == [(1, {"loss": 1.0}), (2, {"loss": 0.5}), (2, {"J": 0.5})]
    path.rename(path.with_name("of another process"))
    with RunDir(tmp_path, speck()):
        pass
    (path,) = (tmp_path / "tensorboard").glob("events*")
    assert events(path)[1].step == 3
    assert "tfevents" in path.name


def test_without_tensorboardx_one_line_says_which_extra_to_install(tmp_path, capsys, monkeypatch):
    for name in ("tensorboardX", "tensorboardX.proto"):
        monkeypatch.setitem(sys.modules, name, None)
    with RunDir(tmp_path, speck()) as run:
        save_all(run, {1: None, 2: 0.5})
    (line,) = capsys.readouterr().err.splitlines()
    assert 'pip install "jaxvos[tensorboard]"' in line
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 2]
    assert not (tmp_path / "tensorboard").exists()
