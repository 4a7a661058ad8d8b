"""The mean of several runs' weights."""

import numpy as np
import pytest

from jaxvos.checkpoints import read_weights, save_weights
from jaxvos.programs.average import average


def saved(path, scale, system="mover", size=3):
    tree = {
        "params": {"conv": {"kernel": scale * np.arange(size, dtype=np.float32)}},
        "batch_stats": {"norm": {"mean": np.float32([scale])}},
    }
    about = {key: "" for key in ("options", "version", "license", "source")}
    about |= {"system": system, "options": "{}", "segmenter": "{}", "J": "0.9"}
    save_weights(path, tree, about)
    return path


def test_it_is_the_mean_of_parameters_and_statistics(tmp_path):
    (tmp_path / "run").mkdir()
    saved(tmp_path / "run" / "weights.safetensors", 5.0)
    sources = [saved(tmp_path / "a.safetensors", 1.0), tmp_path / "run"]
    average(sources, tmp_path / "out.safetensors")
    found, about = read_weights(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(found["params"]["conv"]["kernel"], [0, 3, 6])
    np.testing.assert_array_equal(found["batch_stats"]["norm"]["mean"], [3])
    assert found["params"]["conv"]["kernel"].dtype == np.float32
    assert about["segmenter"] == "{}" and "J" not in about, "that was one run's"
    assert about["system"] == "mover" and about["source"] == "average of a.safetensors, run"


def test_what_cannot_be_averaged_is_refused(tmp_path):
    one = saved(tmp_path / "a.safetensors", 1.0)
    out = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match="two sources or more, not of 1"):
        average([one], out)
    with pytest.raises(ValueError, match="weights of 'raft', not of 'mover'"):
        average([one, saved(tmp_path / "b.safetensors", 1.0, "raft")], out)
    with pytest.raises(ValueError, match=r"conv/kernel is \(4,\), not \(3,\)"):
        average([one, saved(tmp_path / "c.safetensors", 1.0, size=4)], out)
    assert not out.exists()
    with pytest.raises(FileExistsError, match="already is"):
        average([one, one], one)
