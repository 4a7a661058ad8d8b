"""`jaxvos compare`: results side by side, sequence by sequence."""

import json

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from jaxvos.cli import app
from jaxvos.programs.compare import compare, published_scores


def entry(j, f=0.5):
    return {"frames": 3, "J": statistics(j), "F": statistics(f)}


def statistics(mean):
    return {"mean": mean, "recall": 1.0, "decay": 0.0}


def write(folder, values, protocol="davis16"):
    folder.mkdir(parents=True)
    per_sequence = {name: entry(value) for name, value in values.items()}
    (folder / "summary.json").write_text(
        json.dumps({"protocol": protocol, "per_sequence": per_sequence})
    )
    return folder


def shown(*args, **keywords):
    """The table's lines as lists of words."""
    console = Console(width=300)
    with console.capture() as capture:
        console.print(compare(*args, **keywords))
    return [line.split() for line in capture.get().splitlines() if line.strip()]


@pytest.fixture
def runs(tmp_path):
    first = write(tmp_path / "first", {"libby": 0.5, "camel": 0.25, "goat": 0.75})
    return first, write(tmp_path / "second", {"libby": 0.75, "camel": 0.125})


def test_the_hardest_sequence_comes_first_and_differences_beside(runs):
    lines = shown(runs)
    assert lines[0] == ["sequence", "first", "second", "diff"]
    assert lines[2:5] == [
        ["camel", "0.250", "0.125", "-0.125"],
        ["libby", "0.500", "0.750", "+0.250"],
        ["goat", "0.750"],
    ]
    assert ["mean", "of", "2", "0.375", "0.438", "+0.062"] in lines
    assert lines[-1] == ["davis16,", "J_mean"]


def test_another_measure_can_be_compared(runs):
    assert ["libby", "0.500", "0.500", "+0.000"] in shown(runs, measure="F_mean")
    with pytest.raises(ValueError, match=r"first has no measure 'T'\. It has: J_mean, J_recall"):
        compare(runs, measure="T")


def test_published_scores_stand_beside(runs):
    lines = shown(runs[:1], published=["cosnet"])
    assert ["libby", "0.500", f"{published_scores()['cosnet']['libby']:.3f}"] == next(
        line[:3] for line in lines if line[0] == "libby"
    )
    with pytest.raises(ValueError, match=r"No published scores of cosnot\. There are: cosnet"):
        compare(runs, published=["cosnot"])
    with pytest.raises(ValueError, match="means of J by davis16, not F_mean"):
        compare(runs, published=["cosnet"], measure="F_mean")


def test_the_published_table_averages_to_the_published_means():
    scores = published_scores()
    assert len(scores) == 27 and all(len(values) == 20 for values in scores.values())
    means = {name: np.mean(list(values.values())) for name, values in scores.items()}
    assert means["cosnet"] == pytest.approx(0.805, abs=1e-3)
    assert means["matnet"] == pytest.approx(0.824, abs=1e-3)


def test_runs_of_one_name_are_told_apart_by_their_folder(tmp_path):
    runs = [write(tmp_path / name / "out", {"libby": 0.5}) for name in "ab"]
    assert shown(runs)[0] == ["sequence", "a/out", "b/out", "diff"]


def test_what_cannot_be_compared_is_said(runs, tmp_path):
    other = write(tmp_path / "other", {"libby": 0.5}, protocol="fbms")
    with pytest.raises(ValueError, match="different protocols, davis16 and fbms"):
        compare([runs[0], other])
    with pytest.raises(FileNotFoundError, match=r"no summary\.json"):
        compare([tmp_path / "none"])
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(ValueError, match="is no summary of"):
        compare([tmp_path / "summary.json"])
    with pytest.raises(ValueError, match="given twice"):
        compare([runs[0], runs[0]])


def test_the_command_prints_the_table(runs):
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--published", "cosnet,fst"])
    assert result.exit_code == 0 and "fst" in result.output and "+0.250" in result.output
