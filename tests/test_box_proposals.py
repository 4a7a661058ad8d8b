"""Boxes are chosen as AGNN's released selection does it, and bad files are told apart."""

import json

import numpy as np
import pytest

from jaxvos import box_proposals
from jaxvos.box_proposals import Proposal, overlap, read, select, suppress, write


@pytest.fixture
def scene():
    """A frame with one bright square, and scores that are sure of it."""
    frame = np.full((60, 80, 3), 40, np.uint8)
    frame[10:40, 20:50] = 220
    scores = np.full((60, 80), 0.02, np.float32)
    scores[10:40, 20:50] = 0.95
    return frame, scores


def choose(scene, *proposals, **options):
    frame, scores = scene
    return select(proposals, scores, frame, **options)


def test_what_agrees_with_the_foreground_is_kept_and_what_is_elsewhere_only_if_sure(scene):
    on = Proposal((20, 10, 30, 30), 0.6)
    off, sure = Proposal((60, 40, 20, 20), 0.88), Proposal((0, 40, 20, 20), 0.9)
    assert choose(scene, on, off, sure) == [sure, on]
    assert choose(scene, on, off, sure, sure=0.87) == [sure, off, on]
    assert choose(scene, on._replace(score=0.55), sure) == [sure]
    assert choose(scene, sure, on, most=1) == [sure]


def test_small_boxes_are_no_objects_unless_nothing_else_is_left(scene):
    small = Proposal((20, 10, 14, 14), 0.95)
    assert choose(scene, small, Proposal((20, 10, 30, 30), 0.6))[-1].score == 0.6
    assert small not in choose(scene, small, Proposal((30, 20, 30, 30), 0.6))
    assert choose(scene, small) == [small]
    assert choose(scene, small._replace(score=0.7)) == []
    assert choose(scene) == []


def test_of_boxes_on_one_place_the_surest_stays():
    a, b, c = (Proposal((x, 0, 10, 10), s) for x, s in ((0, 0.5), (2, 0.9), (6, 0.7)))
    assert suppress([a, b, c]) == [b]  # of b, a covers 8/12 and c 6/14
    assert suppress([a, b, c], threshold=0.5) == [b, c]
    assert suppress([a, Proposal((0, 0, 0, 0), 0.1)])[0] == a


def test_overlap_is_of_the_floored_box_inside_the_picture():
    mask = np.zeros((10, 10), bool)
    mask[:5, :4] = True
    assert overlap((0.9, 0.9, 4.9, 5.9), mask) == 1.0
    assert overlap((-3, -3, 7, 8), mask) == 1.0
    assert overlap((-9, -9, 3, 3), mask) == 0.0
    assert overlap((0, 0, 4, 10), mask) == 0.5
    assert overlap((0, 0, 0, 0), np.zeros((2, 2), bool)) == 0.0


def test_a_box_outside_the_picture_is_refused_and_one_across_its_edge_is_not(scene):
    across = Proposal((-5, -5, 60, 50), 0.95)
    assert choose(scene, across) == [across]
    for box in ((80, 0, 9, 9), (0, 60, 9, 9), (-9, 0, 9, 9), (0, -9, 9, 9)):
        with pytest.raises(ValueError, match=r"outside the picture, which is 80 x 60"):
            choose(scene, across, Proposal(box, 0.9))


def test_scores_of_another_frame_are_refused(scene):
    with pytest.raises(ValueError, match=r"\(60, 79\), the frame is \(60, 80\)"):
        select([], scene[1][:, 1:], scene[0])


def test_files_are_read_and_written_as_released(tmp_path):
    path = tmp_path / "00000.json"
    path.write_text(json.dumps([{"bbox": [1, 2, 3.5, 4], "score": 0.9, "segmentation": {}}]))
    (found,) = read(path)
    assert found == Proposal((1.0, 2.0, 3.5, 4.0), 0.9)
    write([found, found], path)
    assert path.read_text().startswith('[\n    {\n        "bbox": [')
    assert [entry["id"] for entry in json.loads(path.read_text())] == [1, 2]
    assert read(path) == [found, found]
    assert [p.name for p in tmp_path.iterdir()] == ["00000.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"bbox": [1, 2, 3, 4]}', "are a list of entries, not a dict"),
        ('[{"bbox": [1, 2, 3, 4]}]', "entry 0: a proposal is"),
        ('[{"bbox": [1, 2, 3], "score": 1}]', r"entry 0: a box is \[x, y, width, height\]"),
        ('[{"bbox": [1, 2, -3, 4], "score": 1}]', "entry 0: a box is"),
        ('[{"bbox": [1, 2, 3, NaN], "score": 1}]', "entry 0: a box is"),
        ('[{"bbox": "abc", "score": 1}]', "entry 0: no numbers"),
    ],
)
def test_a_file_of_something_else_says_where(tmp_path, text, message):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "p.json")


def test_the_foreground_comes_out_of_the_crf(scene, monkeypatch):
    seen = {}

    def refine(frame, heat, settings):
        seen.update(low=heat.min(), high=heat.max(), settings=settings)
        return np.zeros(heat.shape, np.float32)

    monkeypatch.setattr(box_proposals.crf, "refine", refine)
    assert choose(scene, Proposal((20, 10, 30, 30), 0.6)) == []
    np.testing.assert_allclose(seen["low"], 1 / (1 + np.exp(-0.1 * (5 - 0.02))), rtol=1e-6)
    assert seen["high"] > 0.999 and seen["settings"] == box_proposals.CRF
