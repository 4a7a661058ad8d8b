"""The report: what its page holds, and what is refused."""

import base64
import io
import json
import os
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxvos.programs.report import report
from jaxvos.programs.report_content import page_content, spread
from jaxvos.programs.report_frames import codes, foreground
from jaxvos.programs.report_runs import read_runs
from tests.made_up_results import (
    content_of,
    made_up_run,
    runs_of,
    save,
    scored_runs,
    square,
    write_csv,
)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return scored_runs(tmp_path_factory.mktemp("scored"))


def pixels_of(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def plain(folder, name="a", **options):
    return made_up_run(folder / name, {"s": [("0", 0.25, 0.5), ("1", 0.75, 0.5)]}, **options)


def test_a_page_holds_the_scores_of_both_runs(scored, tmp_path):
    page = report(runs_of(scored), tmp_path / "deep/report.html")
    content = content_of(page)
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs_of(scored)]
    for row in content["headline"]:
        for value, summary in zip(row["values"], summaries, strict=True):
            entry = summary["frame_average"] if "over" in row["statistic"] else None
            expected = entry[row["measure"]] if entry else summary[row["measure"]][row["statistic"]]
            assert value == expected
    assert [(row["measure"], row["statistic"]) for row in content["headline"]] == [
        (m, s) for m in "JF" for s in ("mean", "recall", "decay", "mean over frames")
    ]
    assert [run["name"] for run in content["runs"]] == ["right", "slip"]
    assert content["runs"][0]["averaging"] == summaries[0]["averaging"]
    bee = content["sequences"][1]
    assert bee["name"] == "bee" and bee["frames"] == [f"{t:05d}" for t in range(1, 8)]
    assert bee["values"][0][0] == [round(1 / 3, 5)] * 7  # squares 10 wide, moved by 5
    assert bee["values"][0][1][0] == round(9 / 11, 5)
    assert content["rows"][1]["values"][0][0] == pytest.approx(1 / 3)
    assert content["notes"] == []


def test_embedded_masks_say_what_is_correct_false_and_missed(scored, tmp_path):
    bee = content_of(report(runs_of(scored), tmp_path / "r.html"))["sequences"][1]
    assert [frame["t"] for frame in bee["shown"]] == list(range(7))
    frame = bee["shown"][2]  # of the frame 00003
    assert pixels_of(frame["picture"]).shape == (24, 32, 3)
    for r, left in enumerate((13, 11)):
        expected = codes(square(3, left) > 0, square(3) > 0)
        np.testing.assert_array_equal(pixels_of(frame["masks"][r]), expected)
        assert set(np.unique(expected)) == {0, 1, 2, 3}
        assert (expected == 1).argmax(axis=1).max() == 18  # false to the right, where truth ends
    greys = Image.open(io.BytesIO(base64.b64decode(frame["masks"][0].split(",")[1])))
    assert sorted({grey for _, grey in greys.convert("L").getcolors()}) == [0, 85, 170, 255]


def test_large_frames_are_shown_small_in_their_shape(tmp_path):
    truth = np.zeros((480, 854), np.uint8)
    truth[120:240, 200:600] = 255
    save(tmp_path / "data/JPEGImages/s/0.jpg", np.zeros((480, 854, 3), np.uint8))
    save(tmp_path / "data/Annotations/s/0.png", truth)
    save(tmp_path / "masks/s/0.png", truth)
    run = made_up_run(tmp_path / "a", {"s": [("0", 1, 1)]}, predictions=str(tmp_path / "masks"))
    content = content_of(report([run], tmp_path / "r.html", data=tmp_path / "data"))
    (frame,) = content["sequences"][0]["shown"]
    assert pixels_of(frame["picture"]).shape == (180, 320, 3)
    small = pixels_of(frame["masks"][0])
    assert set(np.unique(small)) == {0, 3}
    assert (small == 3).mean() == pytest.approx((truth > 0).mean(), rel=0.03)


def test_frames_are_spread_evenly_and_the_ends_are_among_them():
    names = [str(t) for t in range(100)]
    assert spread(names, 100) == names and spread(names[:3], 5) == names[:3]
    chosen = [int(name) for name in spread(names, 12)]
    assert len(chosen) == 12 and (chosen[0], chosen[-1]) == (0, 99)
    assert set(np.diff(chosen)) == {9}
    assert spread(names, 0) == []


def test_the_number_of_frames_is_kept_but_for_the_worst_and_the_best(tmp_path):
    values = [(f"{t:02d}", 0.5 + 0.4 * (t == 7) - 0.4 * (t == 4), 0.5) for t in range(20)]
    root = tmp_path / "data"
    for frame, *_ in values:
        save(root / f"JPEGImages/s/{frame}.png", np.zeros((24, 32, 3), np.uint8))
        save(root / f"Annotations/s/{frame}.png", square(1))
        save(tmp_path / f"a/masks/s/{frame}.png", square(2))  # where a system's masks are
    run = made_up_run(tmp_path / "a", {"s": values}, data=str(root))
    shown = content_of(report([run], tmp_path / "r.html", frames=3))["sequences"][0]["shown"]
    assert [frame["t"] for frame in shown] == [0, 4, 7, 10, 19]
    none = content_of(report([run], tmp_path / "none.html", frames=0))
    assert none["sequences"][0]["shown"] == []


def test_worst_and_best_are_one_of_a_sequence_and_turn_round_for_an_error(tmp_path):
    values = {name: [(str(t), (i + t) / 10) for t in range(3)] for i, name in enumerate("abcd")}
    for measure, worst, best in (("J", ["a", "0"], ["d", "2"]), ("MAE", ["d", "2"], ["a", "0"])):
        run = made_up_run(tmp_path / measure, values, (measure,))
        (ends,) = page_content(read_runs([run]))["extremes"]
        assert list(ends["worst"][0]) == worst and list(ends["best"][0]) == best
        for end in ends.values():
            assert len({name for name, _ in end}) == len(end)


def test_measures_are_the_columns_whatever_they_are(tmp_path):
    values = {"s": [("0", 0.5, 0.25, "nan"), ("1", 0.5, "", 0.125)]}
    run = made_up_run(tmp_path / "a", {"s": [("0", 1, 1, 1)]}, ("Fmax", "MAE", "T"))
    write_csv(
        run / "per_frame.csv",
        ["sequence", "frame", "Fmax", "MAE", "T"],
        [("s", *row) for row in values["s"]],
    )
    content = page_content(read_runs([run]))
    assert [(m["name"], m["lower"]) for m in content["measures"]] == [
        ("Fmax", False),
        ("MAE", True),
        ("T", True),
    ]
    assert content["sequences"][0]["values"] == [[[0.5, 0.5]], [[0.25, None]], [[None, 0.125]]]
    assert content["columns"][0] == {"measure": "Fmax", "statistic": "mean", "lower": False}


def test_a_headline_takes_every_score_of_a_summary_and_no_setting(tmp_path):
    scores = {"S": 0.5, "F_max": 0.25, "frame_average": {"F_max": 0.75}, "threshold": 0.5}
    run = made_up_run(tmp_path, {"s": [("0", 0.5)]}, ("MAE",), smooth=False, **scores)
    content = page_content(read_runs([run]))
    assert [(r["measure"], r["statistic"], *r["values"]) for r in content["headline"]] == [
        ("MAE", "mean", 0.5),
        ("S", "mean", 0.5),
        ("F_max", "mean", 0.25),
        ("F_max", "mean over frames", 0.75),
    ]
    assert dict(content["runs"][0]["facts"]).keys() == {"results", "threshold", "smooth"}


def test_a_measure_that_a_run_lacks_is_a_gap(tmp_path):
    one = made_up_run(tmp_path / "a", {"s": [("0", 0.5)]}, ("J",))
    other = made_up_run(tmp_path / "b", {"s": [("0", 0.25)]}, ("MAE",))
    (line,) = page_content(read_runs([one, other]))["sequences"]
    assert line["values"] == [[[0.5], [None]], [[None], [0.25]]]


def test_several_objects_are_lines_of_their_own_and_their_mean(tmp_path):
    values = {"s": [("1", "0", 0.5), ("2", "0", 1.0), ("1", "1", 0.25)]}
    run = made_up_run(tmp_path / "a", values, ("J",), objects=True)
    (line,) = page_content(read_runs([run]))["sequences"]
    assert line["values"] == [[[0.75, 0.25]]]
    assert line["objects"] == [[{"1": [0.5, 0.25], "2": [1.0, None]}]]


def test_void_of_label_pictures_is_not_counted_as_an_object(tmp_path):
    truth = square(2) // 255 + 255 * (square(10) > 0).astype(np.uint8) * (square(2) == 0)
    save(tmp_path / "data/JPEGImages/s/0.png", np.zeros((24, 32, 3), np.uint8))
    save(tmp_path / "data/Annotations/s/0.png", truth)
    save(tmp_path / "masks/s/0.png", square(10) // 255)
    options = {"data": str(tmp_path / "data"), "predictions": str(tmp_path / "masks")}
    run = made_up_run(tmp_path / "a", {"s": [("1", "0", 1)]}, ("J",), objects=True, **options)
    (frame,) = content_of(report([run], tmp_path / "r.html"))["sequences"][0]["shown"]
    seen = pixels_of(frame["masks"][0])
    np.testing.assert_array_equal(seen >= 2, square(2) > 0)
    assert not (seen == 1).any()


def test_a_soft_map_is_shown_above_one_half_and_labels_above_zero(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    save(tmp_path / "soft.png", ramp)
    np.testing.assert_array_equal(foreground(tmp_path / "soft.png"), ramp > 127)
    save(tmp_path / "labels.png", ramp % 3)
    np.testing.assert_array_equal(foreground(tmp_path / "labels.png"), ramp % 3 > 0)


def test_runs_are_told_apart_and_a_crf_is_named(tmp_path):
    one = plain(tmp_path / "cosnet", "results")
    other = plain(tmp_path / "gatenet", "results", crf="davis", options={"references": 5})
    runs = page_content(read_runs([one, other]))["runs"]
    assert [run["name"] for run in runs] == ["cosnet/results", "gatenet/results + CRF davis"]
    assert ["options", '{"references": 5}'] in [list(fact) for fact in runs[1]["facts"]]


def test_runs_that_do_not_compare_say_so(tmp_path):
    one, same = plain(tmp_path), plain(tmp_path, "b")
    assert page_content(read_runs([one, same]))["notes"] == []
    other = made_up_run(tmp_path / "c", {"t": [("0", 1, 1)]}, protocol="fbms")
    notes = " ".join(page_content(read_runs([one, other]))["notes"])
    assert "different protocols" in notes and "different sequences" in notes
    rows = page_content(read_runs([one, other]))["rows"]
    assert [row["values"] for row in rows] == [
        [[0.5, 0.5], [None, None]],
        [[None, None], [1.0, 1.0]],
    ]


def test_without_data_or_masks_the_page_says_why_it_has_no_pictures(scored, tmp_path):
    run = plain(tmp_path, data=str(tmp_path / "gone"))
    content = content_of(report([run], tmp_path / "1.html"))
    assert any("masks" in note and "not kept" in note for note in content["notes"])
    (run / "masks").mkdir()
    content = content_of(report([run], tmp_path / "2.html"))
    assert any(str(tmp_path / "gone") in note for note in content["notes"])
    assert content["sequences"][0]["shown"] == []
    with pytest.raises(FileNotFoundError, match="gone"):
        report([run], tmp_path / "3.html", data=tmp_path / "gone")
    half = made_up_run(tmp_path / "half", {"ant": [("00001", 1, 1)]}, predictions="/nowhere")
    content = content_of(report([runs_of(scored)[0], half], tmp_path / "4.html"))
    assert any("/nowhere" in note for note in content["notes"])
    assert [mask is None for mask in content["sequences"][0]["shown"][0]["masks"]] == [False, True]


def test_what_cannot_be_a_report_is_refused(tmp_path):
    run = plain(tmp_path)
    for bad, error, words in (
        ([], ValueError, "at least one"),
        ([run, run], ValueError, "twice"),
        ([tmp_path], FileNotFoundError, r"summary\.json.*jaxvos evaluate"),
    ):
        with pytest.raises(error, match=words):
            report(bad, tmp_path / "r.html")
    with pytest.raises(ValueError, match="not -1"):
        report([run], tmp_path / "r.html", frames=-1)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        report([run], tmp_path)
    for text, words in (
        ("sequence,frame,J\ns,0,high\n", "line 2: 'high' is no number"),
        ("sequence,frame,J\ns,0\n", "line 2: there are 3 columns"),
        ("sequence,J\ns,0\n", "no column frame"),
    ):
        (run / "per_frame.csv").write_text(text)
        with pytest.raises(ValueError, match=words):
            report([run], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_file_that_is_there_is_replaced_only_when_told_and_only_as_a_whole(tmp_path, monkeypatch):
    run, page = plain(tmp_path), tmp_path / "r.html"
    page.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        report([run], page)

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            report([run], page, overwrite=True)
    assert page.read_text() == "mine" and sorted(tmp_path.iterdir()) == [run, page]
    report([run], page, overwrite=True)
    assert content_of(page)["runs"][0]["name"] == "a"


# How eyes without one kind of cone see linear RGB: Machado, Oliveira and Fernandes 2009, severity 1
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def lab(linear):
    """CIE L*a*b* of linear sRGB; a distance of 2.3 is just noticeable."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.clip(to_xyz @ linear, 0, None) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colour_blind_people_can_tell_correct_false_and_missed_apart(blindness):
    css = (Path(report.__code__.co_filename).parent / "report.css").read_text()
    seen = []
    for name in ("correct", "false", "missed"):
        srgb = re.search(rf"--{name}: #(\w{{6}});", css)[1]
        value = np.array([int(srgb[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        seen.append(lab(np.array(BLINDNESS[blindness]) @ linear))
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 25
