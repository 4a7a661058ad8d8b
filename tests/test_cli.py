"""What is given on the command line is what the programs are asked for."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxvos.cli import app
from jaxvos.metrics.scoring import Options

SEGMENT = {
    "system": None,
    "weights": None,
    "options": {},
    "smooth": False,
    "crf": None,
    "objects": False,
    "proposals": None,
    "flow": None,
    "formats": "png",
    "threshold": 0.5,
    "scores": False,
    "overwrite": False,
    "progress": True,
}
EVALUATE = {
    "protocol": "davis16",
    "predictions": None,
    "system": None,
    "weights": None,
    "out": None,
    "workers": None,
    "sequences": None,
    "threshold": 0.5,
    "smooth": False,
    "crf": None,
    "objects": False,
    "proposals": None,
    "flow": None,
    "protocol_options": Options(False, True, False, ()),
    "overwrite": False,
    "options": None,
    "report": False,
    "progress": True,
}
SHARED = {
    "--system cosnet": {"system": "cosnet"},
    "--weights w": {"weights": Path("w")},
    "--threshold 0.3": {"threshold": 0.3},
    "--smooth": {"smooth": True},
    "--crf pdb": {"crf": "pdb"},
    "--objects": {"objects": True},
    "--proposals p": {"proposals": Path("p")},
    "--flow raft:r": {"flow": "raft:r"},
    "--set clip=7 --set flow=raft:r": {"options": {"clip": 7, "flow": "raft:r"}},
    "--overwrite": {"overwrite": True},
    "--quiet": {"progress": False},
}
OF_SEGMENT = {
    "--fast --set clip=7": {"options": {"clip": 7, "fast": True}},
    "--format rle,mp4": {"formats": "rle,mp4"},
    "--scores": {"scores": True},
}
OF_EVALUATE = {
    "--predictions p": {"predictions": Path("p")},
    "--protocol fbms": {"protocol": "fbms"},
    "--out o --report": {"out": Path("o"), "report": True},
    "--sequences a,b": {"sequences": ["a", "b"]},
    "--stability": {"protocol_options": Options(True, True, False, ())},
    "--no-normalize": {"protocol_options": Options(False, False, False, ())},
    "--keep-empty": {"protocol_options": Options(False, True, True, ())},
    "--fix size,labels": {"protocol_options": Options(False, True, False, ("size", "labels"))},
    "--workers 3": {"workers": 3},
}


def asked(monkeypatch, program, answer, words):
    """What the command line asks of the program, and what is printed."""
    calls = []
    monkeypatch.setattr(program, lambda *args, **named: calls.append((args, named)) or answer)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    (call,) = calls
    return call, result.output


@pytest.mark.parametrize("words", ["", *SHARED, *OF_SEGMENT])
def test_segment_is_asked_for_what_the_command_line_says(monkeypatch, words):
    summary = {
        "foreground": {"mean": 0.25},
        "frames": 4,
        "seconds": 2.0,
        "doubts": ["A plain sentence."],
        "frames_without_foreground": ["00003"],
    }
    (args, named), shown = asked(
        monkeypatch,
        "jaxvos.programs.segment.segment_to_folder",
        summary,
        ["segment", "clip.mp4", "--out", "masks", *words.split()],
    )
    assert args == ("clip.mp4", Path("masks"))
    assert named == SEGMENT | {**SHARED, **OF_SEGMENT, "": {}}[words]
    shown = " ".join(shown.split())
    assert "4 frames in 2.0 s, foreground 25.0%" in shown and "A plain sentence." in shown
    assert "Nothing was found in 1 of the frames" in shown


@pytest.mark.parametrize("words", ["", *SHARED, *OF_EVALUATE])
def test_evaluate_is_asked_for_what_the_command_line_says(monkeypatch, words):
    (args, named), shown = asked(
        monkeypatch,
        "jaxvos.programs.evaluate.evaluate",
        {"protocol": "davis16", "J": {"mean": 0.5}},
        ["evaluate", "--data", "d", *words.split()],
    )
    assert args == (Path("d"),)
    assert named == EVALUATE | {**SHARED, **OF_EVALUATE, "": {}}[words]
    assert ("davis16: J 0.5000" in shown) == (words == "--quiet")  # else a table was shown


def test_an_option_without_a_value_is_refused():
    result = CliRunner().invoke(app, ["segment", "c.mp4", "--out", "o", "--set", "clip"])
    assert result.exit_code and "write KEY=VALUE" in str(result.exception) + result.output
