"""Maps of objectness are read from folders, and weigh scores."""

import numpy as np
import pytest
from PIL import Image

from jaxvos.objectness import maps_of, weighed
from jaxvos.typing import Video

FRAMES = Video([np.zeros((4, 6, 3), np.uint8)] * 2, name="walk")


def test_the_likeliest_object_adds_half_and_what_is_none_halves():
    scores = np.full((1, 3), 0.6, np.float32)
    np.testing.assert_allclose(weighed(scores, np.array([[8.0, 4.0, 0.0]])), [[0.9, 0.6, 0.3]])
    assert weighed(scores, np.array([[1.0, 1, 1]])).max() == pytest.approx(0.9)
    np.testing.assert_allclose(weighed(2 * scores / 1.2, np.ones((1, 3))), 1)


def test_a_map_of_nothing_halves_everything():
    np.testing.assert_allclose(weighed(np.ones((2, 2)), np.zeros((2, 2))), 0.5)


def test_maps_are_read_by_the_frames_names_in_a_folder_or_in_the_videos_own(tmp_path):
    values = np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000
    own = tmp_path / "all" / "walk"
    own.mkdir(parents=True)
    for folder in (tmp_path, own):
        Image.fromarray(values).save(folder / "00000.png")
        np.save(folder / "00001.npy", values / 7)
    for folder in (tmp_path, tmp_path / "all"):
        read = maps_of(FRAMES, folder)
        np.testing.assert_array_equal(read(0), values)
        np.testing.assert_allclose(read(1), values / 7, rtol=1e-6)


def test_maps_that_are_missing_or_no_maps_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"no map of 2 of the 2 frames of walk.*00000 \(.png"):
        maps_of(FRAMES, tmp_path)
    np.save(tmp_path / "00000.npy", np.zeros((3, 6)))
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "00001.png")
    read = maps_of(FRAMES, tmp_path)
    with pytest.raises(ValueError, match=r"00000.npy is \(3, 6\), the frames are \(4, 6\)"):
        read(0)
    with pytest.raises(ValueError, match=r"00001.png is RGB pixels"):
        read(1)
    for wrong in (-1, np.nan):
        np.save(tmp_path / "00000.npy", np.full((4, 6), wrong))
        with pytest.raises(ValueError, match="finite and not negative"):
            read(0)
