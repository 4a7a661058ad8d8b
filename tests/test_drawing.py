"""What is written to be looked at shows what it should: films, overlays, contact sheets."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest

from jaxvos.drawing import contact_sheet, overlay, thumbnail
from jaxvos.film_writer import film_writer, write_video
from jaxvos.video import open_video
from tests.numbered_pictures import H, W, numbered


def test_a_written_film_is_h264_of_the_same_colours_and_rate(tmp_path):
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40]], np.uint8)
    picture = np.repeat(np.repeat(colors[None], 16, 1), 48, 0)
    for rate in (Fraction(30000, 1001), 30000 / 1001):
        write_video(tmp_path / "film.mp4", [picture] * 5, rate, crf=5)
        with av.open(str(tmp_path / "film.mp4")) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
            assert stream.average_rate == Fraction(30000, 1001)
    frames = open_video(tmp_path / "film.mp4").frames
    assert len(frames) == 5
    assert np.abs(frames[3][24, 8::16].astype(int) - colors).max() <= 4
    assert os.listdir(tmp_path) == ["film.mp4"]


@pytest.mark.parametrize("size", [(1, 1), (47, 63), (48, 63)])
def test_a_film_of_odd_size_is_padded_by_its_edge(size, tmp_path):
    picture = numbered(0, *size)
    picture[-1, :], picture[:, -1] = 250, 250
    write_video(tmp_path / "film.mp4", [picture], 24, crf=1)
    frame = open_video(tmp_path / "film.mp4").frames[0]
    height, width = size
    assert frame.shape[:2] == (height + height % 2, width + width % 2)
    assert np.abs(frame[:height, :width].astype(int) - picture).mean() < 8
    assert frame[:, -1].min() > 200 and frame[-1].min() > 200


def test_an_unfinished_film_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="in the middle"), \
            film_writer(tmp_path / "film.mp4", 24) as write:  # fmt: skip
        for t in range(60):  # past the encoder's look-ahead: the file has begun
            write(numbered(t))
        assert os.listdir(tmp_path) == [f".film.partial-{os.getpid()}.mp4"]
        raise RuntimeError("in the middle")
    with pytest.raises(ValueError, match=r"film\.mp4: a picture of 20 x 10 .* 64 x 48"):
        write_video(tmp_path / "film.mp4", [numbered(0), numbered(0, 10, 20)], 24)
    with pytest.raises(ValueError, match="at least one picture"):
        write_video(tmp_path / "film.mp4", [], 24)
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(RuntimeError, match=r"no H\.264 encoder"):
        write_video(tmp_path / "film.mp4", [numbered(0)], 24)
    assert os.listdir(tmp_path) == []


def test_an_overlay_tints_the_object_and_leaves_the_rest(tmp_path):
    frame, labels = numbered(10), np.zeros((H, W), np.uint8)
    labels[10:30, 20:30], labels[10:30, 30:40] = 1, 2
    picture = overlay(frame, labels)
    changed = (picture != frame).any(-1)
    assert changed[10:30, 20:40].all()
    assert not changed[:9].any() and not changed[31:].any() and not changed[:, :19].any()
    gain = picture.astype(int) - frame
    assert gain[15, 25, 0] > 50 > 0 > gain[15, 25, 1] and gain[15, 35, 1] > 50 > 0 > gain[15, 35, 0]
    np.testing.assert_array_equal(overlay(frame, np.zeros((H, W), int)), frame)
    with pytest.raises(ValueError, match=r"\(64, 48\) do not fit"):
        overlay(frame, labels.T)


def test_a_soft_overlay_tints_as_strongly_as_the_score():
    frame = np.full((H, W, 3), 100, np.uint8)
    scores = np.tile(np.linspace(0, 0.49, W, dtype=np.float32), (H, 1))
    red = overlay(frame, scores)[5, :, 0].astype(int)
    assert red[0] == 100 and (np.diff(red) >= 0).all() and red[-1] > 125


def test_a_contact_sheet_holds_every_picture_with_its_name():
    pictures = [np.full((24, 32, 3), 20 * t + 60, np.uint8) for t in range(5)]
    names = ["a", "b", "c", "d", "a name that is far longer than its picture is wide"]
    sheet = contact_sheet(pictures, names, columns=3)
    assert sheet.shape == (2 * (240 + 24 + 10) + 10, 3 * (320 + 10) + 10, 3)
    for t in range(5):
        y, x = 10 + t // 3 * 274, 10 + t % 3 * 330
        assert (sheet[y : y + 240, x : x + 320] == 20 * t + 60).all()
        assert sheet[y + 240 : y + 264, x : x + 320].max() > 150  # ink
        assert (sheet[y : y + 240, x - 10 : x] == sheet[0, 0]).all()
    assert contact_sheet([numbered(0, 1, 1)], ["x"]).shape[0] == 240 + 24 + 20
    assert thumbnail(numbered(0, 1000, 10)).shape == (240, 2, 3)
