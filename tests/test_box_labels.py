"""Labels made of boxes: what fills a given box and moves is kept, and nothing else."""

import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines import sources
from data_pipelines.box_labels import fills, inside, label, label_video, main, moves
from jaxvos.flow.files import write_flow
from jaxvos.video import write_mask

SIZE = (40, 60)


def rectangle(x, y, width, height):
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def flow(length, where=None):
    field = np.zeros((*SIZE, 2), np.float32)
    field[np.ones(SIZE, bool) if where is None else where] = [0.6 * length, -0.8 * length]
    return field


def test_what_is_outside_the_boxes_is_cut_off():
    mask = rectangle(5, 5, 30, 20)
    kept = label(mask, [(5, 5, 20, 20)], flow(2))
    np.testing.assert_array_equal(kept, rectangle(5, 5, 20, 20))
    np.testing.assert_array_equal(inside(mask, (30, 0, 99, 10)), rectangle(30, 5, 5, 5))


def test_the_box_around_what_is_left_has_to_overlap_the_given_one():
    box = (10, 10, 20, 20)
    full, three_quarters = rectangle(10, 10, 20, 20), rectangle(10, 10, 20, 15)
    assert fills(full, box) and fills(three_quarters, box)
    assert not fills(rectangle(10, 10, 20, 14), box)
    assert not fills(three_quarters, box, 0.76)
    corners = rectangle(10, 10, 2, 2) | rectangle(28, 28, 2, 2)
    assert fills(corners, box)  # the box counts, not the pixels
    assert not fills(np.zeros(SIZE, bool), box)


def test_a_box_that_leaves_the_picture_counts_by_its_part_within():
    assert fills(rectangle(0, 10, 10, 20), (-30.0, 10.4, 40.9, 20.0))


def test_what_hardly_moves_is_not_kept_whatever_moves_around_it():
    mask = rectangle(10, 10, 20, 20)
    assert moves(mask, flow(1.001, mask)) and not moves(mask, flow(0.99, mask))
    assert not moves(mask, flow(50, ~mask))
    assert moves(mask, flow(0.5, mask), 0.4)
    assert label(mask, [(10, 10, 20, 20)], flow(0.5)) is None


def test_each_box_is_judged_by_itself_and_all_that_is_kept_is_one_label():
    a, b, c = rectangle(2, 2, 10, 10), rectangle(20, 2, 10, 10), rectangle(40, 20, 10, 4)
    boxes = [(2, 2, 10, 10), (20, 2, 10, 10), (40, 20, 10, 10)]
    kept = label(a | b | c, boxes, flow(3, a | b | c))
    np.testing.assert_array_equal(kept, a | b)  # c does not fill its box
    np.testing.assert_array_equal(label(a | b | c, boxes, flow(3, a | c)), a)
    assert label(a, [], flow(3)) is None


def test_flow_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(40, 60\) pixels has no flow of \(40, 61\)"):
        label(rectangle(0, 0, 1, 1), [], np.zeros((40, 61, 2)))


@pytest.fixture
def folders(tmp_path):
    """Frames 0 to 3 with flow; boxes of 0, 1 and 3; what is in the box of 1 stands still."""
    rng = np.random.default_rng(0)
    made = {name: tmp_path / name for name in ("clip", "boxes", "masks", "flow")}
    for folder in made.values():
        folder.mkdir()
    mask = rectangle(10, 10, 20, 20)
    for t in range(4):
        frame = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(frame).save(made["clip"] / f"{t:05d}.png")
        write_mask(made["masks"] / f"{t:05d}.png", mask | rectangle(40, 2, 5, 5))
        write_flow(made["flow"] / f"{t:05d}.flo", flow(3 if t != 1 else 0.1))
        if t != 2:
            entry = [{"bbox": [10, 10, 20, 20], "score": 1}]
            (made["boxes"] / f"{t:05d}.json").write_text(json.dumps(entry))
    return made


def test_a_folder_becomes_videos_that_training_reads(folders, tmp_path, capsys):
    names = ("clip", "boxes", "masks")
    given = [str(folders[name]) for name in names]
    out = tmp_path / "labels"
    for _ in range(2):  # again, over what is there
        main([*given, str(out), "--flow", str(folders["flow"])])
    assert "labels of 1 frames" in capsys.readouterr().out
    videos = sources.videos(str(out))
    assert videos.lengths == (2,)
    (clip,) = videos
    assert clip.name == "clip-00000"
    np.testing.assert_array_equal(clip.masks[0] != 0, rectangle(10, 10, 20, 20))
    assert not clip.masks[1].any()
    frame = np.asarray(Image.open(folders["clip"] / "00001.png"))
    np.testing.assert_array_equal(clip.frames[1], frame)
    more = label_video(*given, out, flow=folders["flow"], motion=0.05)
    assert more == ["00000", "00001"]


def test_a_video_without_boxes_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match=r"no boxes of .*00000\.json"):
        label_video(folders["clip"], tmp_path, folders["masks"], tmp_path / "labels")
