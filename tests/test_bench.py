"""`jaxvos bench`: what is measured, what is written, what is refused."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxvos.layers import recurrent
from jaxvos.programs.bench import shipped
from jaxvos.programs.bench.data import write_clips
from jaxvos.programs.bench.measure import (
    Extent,
    alone,
    environment,
    peak_memory,
    seconds,
    seconds_in_turn,
)
from jaxvos.programs.bench.objects import touching
from jaxvos.programs.bench.results import _multiply
from jaxvos.programs.bench.suite import BENCHMARKS, bench, markdown, training
from jaxvos.programs.bench.windows import RELEASED, _schedules
from jaxvos.programs.score_files import evaluate_predictions

CACHE = Path(__file__).parents[1] / ".cache" / "xla"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Where a few benchmarks, the quickest, have left their results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        file = tmp_path_factory.mktemp("bench") / "new" / "results.json"
        results = bench(
            file, only=["protocol", "graphs", "attention", "procedural", "objects"], quick=True
        )
    assert json.loads(file.read_text()) == results
    return file


@pytest.fixture(scope="module")
def results(file):
    return json.loads(file.read_text())


def median(results, name, case, quantity):
    (found,) = [
        m["median"]
        for m in results["benchmarks"][name]["measurements"]
        if case in m["case"] and m["quantity"] == quantity
    ]
    return found


def test_encoding_every_frame_once_is_faster_and_gives_the_same_scores(results):
    assert median(results, "protocol", "once", "faster than as released") > 1
    once = median(results, "protocol", "once", "time")
    released = median(results, "protocol", "released", "time")
    gain = median(results, "protocol", "once", "faster than as released")
    assert gain == pytest.approx(released / once)
    assert 0 <= median(results, "protocol", "once", "largest difference of scores") < 1e-4


def test_graphs_are_faster_when_a_frame_is_encoded_once(results):
    parts = {
        name: median(results, "graphs", f"part: {case}", "time")
        for name, case in (("encode", "encoding"), ("one", "a graph, one"), ("all", "a graph, all"))
    }
    released = median(results, "graphs", "as released", "time")
    assert released == pytest.approx(3 * parts["encode"] + parts["all"])
    gain = median(results, "graphs", "one answer a graph", "faster than as released")
    assert gain == pytest.approx(released / (parts["encode"] + parts["one"]))


def test_blocks_take_less_memory_than_the_whole_affinity(results):
    for quantity in ("forward: compiler", "forward and gradient: compiler"):
        whole = median(results, "attention", "whole", quantity)
        assert whole > 1024 * 1024 * 4 / 1e6  # the affinity itself
        assert median(results, "attention", "blocks of 64", quantity) < whole / 3


def test_objects_are_scored_where_they_touch_and_where_not(results):
    for case in ("never touch", "objects touch"):
        assert 0 < median(results, "objects", case, "mean J&F") <= 1
    apart, beside = np.zeros((2, 8, 8), np.uint8)
    apart[:2], apart[4:], beside[:2], beside[2:] = 1, 2, 1, 2
    assert not touching(np.stack([apart, apart])) and touching(np.stack([apart, beside]))


def test_results_say_what_where_and_when(results):
    names = ["protocol", "graphs", "attention", "procedural", "objects"]
    assert list(results["benchmarks"]) == names
    assert results["command"] == f"jaxvos bench --only {','.join(names)} --quick"
    assert results["date"].startswith("20") and "T" in results["date"]
    machine = results["machine"]
    assert machine["cores"] >= 1 and machine["memory_gb"] > 0.5 and machine["cpu"]
    assert machine["platform"] == machine["device"] == "cpu" and machine["load"] >= 0
    for benchmark in results["benchmarks"].values():
        assert benchmark["seconds"] > 0 and benchmark["what"].endswith(".")
        for m in benchmark["measurements"]:
            assert m["min"] <= m["median"] <= m["max"] and m["repeats"] >= 1 and m["unit"]


def test_the_file_prints_as_tables_from_the_command_line(file, results):
    command = [sys.executable, "-m", "jaxvos.programs.bench", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert done.stdout == markdown(results)
    for name in results["benchmarks"]:
        assert f"## {name}\n" in done.stdout and f"--only {name} --quick`" in done.stdout


def test_markdown_of_a_worked_example():
    def measured(case, quantity, unit, *values):
        names = ("case", "quantity", "unit", "repeats", "min", "median", "max")
        return dict(zip(names, (case, quantity, unit, *values), strict=True))

    machine = {"cpu": "Abacus", "cores": 2, "memory_gb": 7.6, "load": 0.1, "jax": "1.2"}
    results = {
        "date": "2031-02-03T04:05:06+00:00",
        "command": "jaxvos bench",
        "jaxvos": "9",
        "machine": machine | {"platform": "gpu", "device": "Slide rule", "devices": 4},
        "benchmarks": {
            "beads": {
                "what": "How beads move.",
                "seconds": 12.3,
                "measurements": [
                    measured("one", "time", "s", 3, 0.01234, 0.5, 1234.5),
                    measured("two", "time", "s", 1, 7.0, 7.0, 7.0),
                    measured("two", "memory", "MB", 1, 1.5, 1.5, 1.5),
                ],
            }
        },
    }
    assert markdown(results) == (
        "## beads\n\nHow beads move.\n\n"
        "2031-02-03, 4 x Slide rule, Abacus, 2 cores, 8 GB, JAX 1.2, jaxvos 9, load 0.1 before it "
        "began. `jaxvos bench` took 12 s.\n\n"
        "|  | time (s) | memory (MB) |\n| --- | ---: | ---: |\n"
        "| one | 0.5 (0.0123 to 1234) |  |\n| two | 7 | 1.5 |\n"
    )
    machine["load"] = 2.0
    assert "load 2.0 before it began: other programs ran beside it" in markdown(
        results | {"machine": results["machine"] | machine}
    )


@pytest.mark.parametrize("only", [["protocol", "speed"], ["speed"], []])
def test_an_unknown_name_is_refused_with_the_known_ones(only):
    said = "'speed'" if only else "nothing"
    with pytest.raises(ValueError, match=f"No benchmark is called {said}. There are: ") as caught:
        bench(only=only, quick=True)
    assert all(name in str(caught.value) for name in BENCHMARKS)


def test_earlier_results_are_not_overwritten(tmp_path):
    (tmp_path / "old.json").write_text("kept")
    with pytest.raises(FileExistsError, match=r"old\.json"):
        bench(tmp_path / "old.json", only=["procedural"], quick=True)
    assert (tmp_path / "old.json").read_text() == "kept"


def test_results_that_cannot_be_written_are_refused_before_measuring(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        bench(tmp_path / "file" / "results.json", only=["procedural"], quick=True)


def test_the_first_call_does_not_count():
    waits = [0.2, 0.0, 0.0]
    assert max(seconds(lambda: time.sleep(waits.pop(0)), 2)) < 0.1 and not waits


def test_memory_is_that_of_the_measuring_process_alone():
    ours = bytearray(b"1") * 800_000_000  # every page of it touched
    assert peak_memory() > len(ours)
    del ours
    assert 50e6 < alone(peak_memory) < 700e6


def test_a_failure_in_a_process_of_its_own_is_told():
    with pytest.raises(RuntimeError, match=r"(?s)read_recipe.*There is no recipe 'none'"):
        alone(training.recipe.read_recipe, "none")


@pytest.mark.slow
def test_a_kept_cache_saves_compilation():
    measured = bench(only=["compile"], quick=True)
    for program in ("encode", "compare"):
        for form in ("unrolled", "scanned"):
            cold = median(measured, "compile", f"{program}, {form}, empty", "compile")
            assert median(measured, "compile", f"{program}, {form}, kept", "compile") < cold / 2
            assert median(measured, "compile", f"{program}, {form}, empty", "first result") > cold


@pytest.mark.parametrize(
    "extent, published",
    [
        (Extent(), set()),
        (Extent(quick=True, asked=True), set()),
        (Extent(asked=True), {4}),
        (Extent(accelerator=True), {4, 8, 16}),
    ],
)
def test_the_published_network_is_trained_where_there_is_time_for_it(
    monkeypatch, extent, published
):
    calls = []

    def took_a_quarter(function, *arguments, env):
        calls.append(arguments)
        return {"seconds": [0.25, 0.25], "compiler": 5_000_000}

    monkeypatch.setattr(training, "alone", took_a_quarter)
    measured = training.train_step(extent)
    assert {batch for name, batch, *_ in calls if name == "cosnet"} == published
    batches = [batch for _, batch, *_ in calls]
    assert [m.values for m in measured if m.unit == "pairs/s"] == [[4.0 * b] * 2 for b in batches]
    assert [m.values for m in measured if m.unit == "steps/s"] == [[4.0] * 2 for _ in batches]


def test_a_step_that_does_not_fit_has_memory_but_no_speed(monkeypatch):
    found = {"seconds": None, "compiler": 5_000_000_000}
    monkeypatch.setattr(training, "alone", lambda *_, **__: found)
    (only,) = training.train_step(Extent(quick=True))
    assert (only.quantity, only.unit, only.values) == ("compiler", "MB", [5000.0])


def test_clips_are_multiplied_into_a_data_set_that_can_be_scored(tmp_path):
    write_clips(tmp_path, clips=2, frames=5, size=(48, 64))
    _multiply(tmp_path, copies=3)
    summary = evaluate_predictions(tmp_path, tmp_path / "predictions", workers=1, progress=False)
    assert summary["sequences"] == 2 * 3 and summary["frames"] == 2 * 3 * (5 - 2)
    assert 0.1 < summary["J"]["mean"] < 1  # the next frame's mask is not this one's


@pytest.mark.parametrize("name", RELEASED)
def test_a_whole_window_says_what_the_segmenter_does(name):
    assert _schedules(name, True)["apart"] < 1e-5


def test_calls_that_are_compared_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    taken = seconds_in_turn(calls, 3)
    assert "".join(order) == "ab" + 3 * "ab", "the first of each does not count"
    assert [len(taken[name]) for name in "ab"] == [3, 3]


def test_the_weights_that_come_along_are_timed_in_each_way_per_frame(monkeypatch):
    seen = []

    class Loaded:
        def segmenter(self, options):
            def segment(video):
                seen.append((dict(options), len(video.frames)))
                yield from range(len(video.frames))

            return segment

    def in_turn(calls, repeats):
        return {name: [float(call())] * repeats for name, call in calls.items()}

    monkeypatch.setattr(shipped, "load", Loaded)
    monkeypatch.setattr(shipped, "seconds_in_turn", in_turn)  # "three seconds": frames answered
    taken = shipped._seconds(list(shipped.WAYS), (16, 24), 3, 2)
    ways = {}, {"refiner": "none"}, {"fast": True}, {"colours": False}
    assert seen == [(way, 3) for way in ways]
    assert taken == {key: [1.0, 1.0] for key in shipped.WAYS}


def test_a_long_video_is_a_short_one_forth_and_back():
    once, thrice = (shipped._again((16, 24), 3, times).frames for times in (1, 3))
    assert len(thrice) == 9
    for t, source in enumerate((0, 1, 2, 2, 1, 0, 0, 1, 2)):
        np.testing.assert_array_equal(thrice[t], once[source])


def test_gradients_are_timed_within_a_loop_and_without(monkeypatch):
    loops = []

    def seconds(call, repeats):
        loops.append("while" in call.func.lower(*call.args).as_text())
        return [float(len(loops))]

    monkeypatch.setattr(training, "seconds", seconds)
    monkeypatch.setattr(training, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(recurrent, "MOST_UNROLLED", recurrent.MOST_UNROLLED)  # to be put back
    measured = training.loops(Extent(quick=True))
    assert loops == [True, False] * 2
    assert [(m.case.split(", ")[1], m.values) for m in measured] == [
        (case, [float(number)])
        for number, case in enumerate(["within a loop", "one after the other"] * 2, start=1)
    ]
