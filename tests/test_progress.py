"""The progress bar of training, with a clock that the test moves."""

import pytest

from jaxvos.programs import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_speeds_are_those_since_the_last_look_without_what_is_left_out(clock):
    with progress.TrainingBar(steps=100, done=40, shown=False) as bar:
        clock[0] += 4
        bar.show(50, loss=1.0, batch=8, waited_s=1.0)
        assert bar.speeds == {"steps_per_s": 2.5, "images_per_s": 20.0, "data_wait": 0.25}
        clock[0] += 1000  # an evaluation
        bar.leave_out()
        clock[0] += 10
        bar.show(55, loss=1.0, batch=8, waited_s=9.0)
        assert bar.speeds == {"steps_per_s": 0.5, "images_per_s": 4.0, "data_wait": 0.8}


def test_a_line_of_80_has_room_for_all_that_a_run_says_of_itself(capsys, clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with progress.TrainingBar(steps=7800, done=1000, shown=True) as bar:
        for step in range(1001, 1101):
            clock[0] += 0.5
            bar.show(step, loss=0.12345, batch=8, waited_s=(clock[0] - 100) / 4)
    out, err = capsys.readouterr()
    assert out == ""
    says = "1100/7800 loss 0.1235 2.00 steps/s 16.0 images/s data wait 25% 0:55:50"  # 6700 / 2 s
    assert says in err


def test_a_bar_that_is_not_shown_writes_nothing(capsys, clock):
    with progress.TrainingBar(steps=2, done=0, shown=False) as bar:
        clock[0] += 1
        bar.show(2, loss=1.0, batch=8, waited_s=0.0)
    assert capsys.readouterr() == ("", "")
