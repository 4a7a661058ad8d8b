"""Training in processes of its own: killed, terminated, two at a time."""

import json
import signal
import socket

import jax
import numpy as np
import pytest

from jaxvos.programs import train as trainer
from tests.train_process import (
    assert_close,
    assert_same_bits,
    logged,
    saved,
    speck_known,
    start,
    steps_kept,
    train,
    wait_for,
)


@pytest.fixture(autouse=True, scope="module")
def speck_is_known():
    with speck_known():
        yield


# --- kill -9 and SIGTERM, on COSNet ------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A whole run, and one that was killed amid step 6, then terminated amid step 7, then done."""
    root = tmp_path_factory.mktemp("interrupted")
    whole, pieces = root / "whole", root / "pieces"
    changes = ["data.image_every=3", "evaluation.every=4"]
    run = {"changes": changes, "recipe": "tiny", "devices": 8}
    train(whole, **run)

    pieces.mkdir()
    workers = [*changes, "data.workers=1"]
    killed = start(["train", run | {"workdir": str(pieces), "changes": workers, "wait_before": 6}])
    wait_for(pieces / "waiting", killed)
    wait_for(pieces / "checkpoints" / "4", killed)
    killed.kill()
    killed.communicate()
    found = [line["step"] for line in logged(pieces)], steps_kept(pieces)

    (pieces / "waiting").unlink()
    terminated = start(["train", run | {"workdir": str(pieces), "wait_before": 7}])
    wait_for(pieces / "waiting", terminated)
    terminated.send_signal(signal.SIGTERM)
    (pieces / "go").touch()
    out, err = terminated.communicate(timeout=300)
    ended = terminated.returncode, json.loads(out), err, steps_kept(pieces)

    train(pieces, **run)
    return whole, pieces, found, ended


@pytest.mark.slow
def test_kill_9_changes_no_bit_of_what_is_trained(interrupted):
    whole, pieces, (steps, _), _ = interrupted
    assert steps[-1] == 5, "the run was killed between two checkpoints, after logging"
    assert_same_bits(saved(whole, 8), saved(pieces, 8))
    kinds = {path.partition("/")[0] for path in saved(whole, 8)}
    assert kinds == {"step", "params", "statistics", "optimizer"}


@pytest.mark.slow
def test_kill_9_leaves_no_gap_and_no_double_in_the_log(interrupted):
    whole, pieces, *_ = interrupted
    assert logged(whole) == logged(pieces)
    assert [line["step"] for line in logged(whole) if "loss" in line] == list(range(1, 9))
    assert [line["step"] for line in logged(whole) if "J" in line] == [4, 8]


@pytest.mark.slow
def test_sigterm_saves_at_its_step_and_exits_cleanly(interrupted):
    *_, (code, result, err, kept) = interrupted
    assert code == 0
    assert (result["step"], result["stopped"]) == (7, True)
    assert "Stopped by SIGTERM; step 7 of 8 is saved" in err
    assert "7" in kept
    assert "Traceback" not in err


@pytest.mark.slow
def test_no_run_leaves_more_than_the_latest_and_the_best_checkpoint(interrupted):
    whole, pieces, *_ = interrupted
    for workdir in (whole, pieces):
        assert set(steps_kept(workdir)) <= {"4", "8"}
    assert "8" in steps_kept(pieces)


# --- several processes ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes with 2 devices said of three runs, and where the runs are."""
    root = tmp_path_factory.mktemp("two")
    changes = ["evaluation.every=4"]
    jobs = [
        ["train", {"workdir": str(root / "together"), "changes": changes}],
        ["train_poisoned", {"workdir": str(root / "poisoned"), "step": 2, "process": 1}],
        [
            "train_terminated",
            {"workdir": str(root / "ended"), "changes": ["steps=400"], "step": 3, "process": 1},
        ],
    ]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        start(
            *jobs,
            JAX_NUM_CPU_DEVICES="2",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, said, strict=True):
        assert process.returncode == 0, err[-4000:]
    # Gloo writes to the output, too.
    lines = [[json.loads(ln) for ln in out.splitlines() if ln[0] in '{"'] for out, _ in said]
    train(root / "alone", changes, devices=4)
    with pytest.MonkeyPatch.context() as patch:  # now each device gets the records it had there
        patch.setattr(trainer, "placed", dealt_out(trainer.placed))
        train(root / "dealt", changes, devices=4)
    return root, lines


def dealt_out(placed):
    """`placed` for one process that deals the records out as two do: even ones first, odd ones."""

    def place(batch, mesh):
        return placed({k: np.concatenate([v[::2], v[1::2]]) for k, v in batch.items()}, mesh)

    return place


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_devices(two_processes):
    root, ((ours, *_), (theirs, *_)) = two_processes
    assert ours["step"] == theirs["step"] == 8
    assert ours["J"] == theirs["J"] is not None
    # Another order of the same records, as in "alone", means sums in another order.
    for run, tolerance in (("dealt", 1e-6), ("alone", 1e-5)):
        for a, b in zip(logged(root / run), logged(root / "together"), strict=True):
            assert a == pytest.approx(b, rel=tolerance)
        assert steps_kept(root / run) == steps_kept(root / "together")
        for step in steps_kept(root / run):
            assert_close(saved(root / run, step), saved(root / "together", step), tolerance)


@pytest.mark.slow
def test_the_records_of_a_bad_batch_are_those_of_all_processes(two_processes):
    root, lines = two_processes
    report = json.loads((root / "poisoned" / "non_finite.json").read_text())
    assert report["step"] == 2
    assert len(report["records"]) == 8
    for _, error, _ in lines:
        assert error.startswith("Step 2 has a loss of nan")
        assert all(name in error for name in report["records"])


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step(two_processes):
    root, ((*_, ours), (*_, theirs)) = two_processes
    assert ours["stopped"] and theirs["stopped"]
    assert 3 <= ours["step"] == theirs["step"] < 400
    assert steps_kept(root / "ended") == [str(ours["step"])]


def test_processes_join_when_the_flag_or_the_environment_says_so(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    trainer.start_distributed(False)
    assert calls == []
    trainer.start_distributed(True)  # on a cluster, JAX finds the rest out by itself
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    trainer.start_distributed(False)
    assert calls == [
        {"num_processes": None, "process_id": None},
        {"num_processes": 2, "process_id": 1},
    ]


def test_processes_that_do_not_know_each_other_are_told_what_to_set(monkeypatch):
    def initialize(**_):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=r"must be defined.*JAX_NUM_PROCESSES and JAX_PROCESS_ID"):
        trainer.start_distributed(True)
