"""Several objects: regions become tracks with the same number in all frames."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.procedural import MOTION, clip
from jaxvos import box_proposals
from jaxvos.box_proposals import Proposal
from jaxvos.davis_layout import read_labels
from jaxvos.flow.bodies import two_bodies
from jaxvos.metrics.davis17 import assign, count_objects, measure_frame
from jaxvos.objects import tracked
from jaxvos.typing import Video
from jaxvos.video import open_video, write_mask

SIZE = (60, 80)
RED, BLUE, GREEN = (200, 20, 20), (20, 20, 200), (20, 200, 20)


def film(*paths, colours=(RED, BLUE, GREEN), side=16, size=SIZE, pole=None):
    """A video of squares that follow paths of corners (y, x), or None where one is absent, with its
    exact flow; and its label maps. The k-th has label k and hides those before; the pole, a range
    of columns, hides all.
    """
    frames, flow, labels = [], [], []
    for t in range(len(paths[0])):
        picture, field = np.full((*size, 3), 128, np.uint8), np.zeros((*size, 2), np.float32)
        label = np.zeros(size, np.uint8)
        for k, path in enumerate(paths):
            if path[t] is None:
                continue
            y, x = (round(c) for c in path[t])
            box = np.s_[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)]
            picture[box], label[box] = colours[k], k + 1
            if t + 1 < len(path) and path[t + 1] is not None:
                field[box] = np.subtract(path[t + 1], path[t])[::-1]
        if pole:
            picture[:, slice(*pole)], label[:, slice(*pole)] = 60, 0
            field[:, slice(*pole)] = 0
        frames.append(picture)
        flow.append(field)
        labels.append(label)
    return Video(frames, flow), labels


def line(start, step, count):
    return [(start[0] + step[0] * t, start[1] + step[1] * t) for t in range(count)]


def foreground(masks):
    return lambda video: (np.asarray(mask != 0, np.float32) for mask in masks)


def numbers(video, masks, **options):
    """The label maps that the objects' scores give, and K; scores are of one object at a time."""
    result = []
    for scores, mask in zip(tracked(foreground(masks), **options)(video), masks, strict=True):
        assert scores.dtype == np.float32 and ((scores > 0).sum(axis=-1) <= 1).all()
        result.append(np.where(scores.max(-1) > 0.5, scores.argmax(-1) + 1, 0).astype(np.uint8))
        assert ((result[-1] > 0) == (mask > 0)).all()
    return result, scores.shape[-1]


def agrees(found, truth, share=1.0):
    """Whether the label maps are the same, up to one renumbering, on that share of the objects."""
    found, truth = np.stack(found), np.stack(truth)
    names = [np.bincount(found[truth == k]).argmax() for k in range(1, truth.max() + 1)]
    same = np.array([0, *names])[truth] == found
    return len(set(names)) == len(names) and same[truth > 0].mean() >= share


def global_score(found, truth):
    """J&F of each object, in the unsupervised protocol of DAVIS 2017."""
    objects, proposals = count_objects(truth[0]), int(max(map(np.max, found)))
    pairs = zip(found, truth, strict=True)
    J, F = map(np.stack, zip(*(measure_frame(*p, proposals, objects) for p in pairs), strict=True))
    chosen = assign(J, F), range(objects)
    return (J[:, *chosen] + F[:, *chosen]).mean(axis=0) / 2


def test_what_is_apart_has_one_number_throughout_the_largest_the_first():
    small = line((4, 60), (0, -3), 12)
    video, labels = film(line((40, 2), (0, 4), 12), small)
    for label, (y, x) in zip(labels, small, strict=True):
        label[y + 8 : y + 16, x : x + 16] = 0
    found, count = numbers(video, labels)
    assert count == 2
    np.testing.assert_array_equal(found, labels)


def test_without_flow_of_the_video_it_is_found():
    rng = np.random.default_rng(0)
    video, labels = film(line((4, 4), (0, 3), 6), line((40, 60), (0, -3), 6))
    skins = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    for picture, label in zip(video.frames, labels, strict=True):
        for k in (1, 2):
            picture[label == k] = skins[k - 1].reshape(-1, 3)
    assert agrees(numbers(Video(video.frames), labels)[0], labels)


def test_objects_that_part_later_are_told_apart_from_the_beginning():
    video, labels = film(line((20, 20), (0, -1), 10), line((20, 36), (0, 2), 10))
    found, count = numbers(video, labels)
    assert count == 2 and agrees(found, labels, 0.99)
    # Pixels that flow is wrong for are not what lies between them.
    video, labels = film(
        [(90, 90 - 3 * t) for t in range(10)], [(90, 130)] * 10, side=40, size=(220, 220)
    )
    slow = [(flow * 0.6).astype(np.float32) for flow in video.flow]
    found, count = numbers(Video(video.frames, slow), labels)
    assert count == 2 and agrees(found, labels, 0.95)


def test_objects_that_meet_keep_their_numbers():
    there = line((20, 4), (0, 4), 6)
    video, labels = film(there + [there[-1]] * 4, [(22, 40)] * 10)
    found, count = numbers(video, labels)
    assert count == 2 and agrees(found, labels, 0.98)


def test_slow_motion_adds_up_where_objects_touch():
    beside = [(24.0, 20 + 0.3 * t) for t in range(30)]
    left = [(24.0, x - 16 - 4 * (t == 0)) for t, (_, x) in enumerate(beside)]
    video, labels = film(left, beside)
    for field, label in zip(video.flow[1:], labels[1:], strict=True):
        field[label > 0] = (0.3, 0)
    assert agrees(numbers(video, labels)[0], labels, 0.95)


def test_an_object_that_comes_back_has_its_number():
    path = [*line((38, 2), (0, 3), 5), *[None] * 5, *line((8, 20), (0, 3), 6)]
    video, labels = film(path, [(38, 60)] * 16)
    found, count = numbers(video, labels)
    assert count == 2 and agrees(found, labels)
    # One that does not look like it has another.
    video.frames[10:] = [np.where(f == RED, GREEN, f).astype(np.uint8) for f in video.frames[10:]]
    assert numbers(video, labels)[1] == 3


def test_an_object_that_passes_behind_a_pole_is_one():
    path = line((20, 2), (0, 3), 20)
    for colours in ((RED,), (BLUE,)):
        video, labels = film(path, colours=colours, pole=(36, 44))
        found, count = numbers(video, labels)
        assert count == 1 and agrees(found, labels)


def test_an_object_that_is_hidden_for_a_while_goes_on_where_it_was_going():
    path = line((20, 2), (0, 3), 20)
    video, labels = film(path, pole=(30, 50))
    found, count = numbers(video, labels)
    assert count == 1 and agrees(found, labels)


def test_a_hidden_object_is_expected_where_it_was_going_whatever_it_will_look_like():
    video, labels = film(line((20, 2), (0, 3), 20), pole=(28, 50))
    seen = [bool(label.any()) for label in labels]
    assert not all(seen)
    for picture in video.frames[seen.index(False) :]:
        picture[picture[..., 0] == RED[0]] = GREEN
    assert numbers(video, labels)[1] == 1


def test_what_was_hidden_for_more_than_a_second_must_look_alike():
    for hidden, count in ((10, 1), (30, 2)):
        video, labels = film([(20, 20)] * 4 + [None] * hidden + [(20, 20)] * 4)
        assert numbers(video, labels)[1] == 1
        for picture in video.frames[4:]:
            picture[picture[..., 0] == RED[0]] = GREEN
        assert numbers(video, labels)[1] == count


def test_of_objects_that_look_alike_the_nearer_one_is_the_same():
    left, right = ([(8, x)] * 4 + [None] * 3 + [(y, x)] * 4 for x, y in ((4, 40), (60, 30)))
    video, labels = film(left, right, colours=(RED, RED))
    found, count = numbers(video, labels)
    assert count == 2 and agrees(found, labels)


def test_an_object_may_be_found_far_off_if_it_was_going_there():
    path = [*line((30, 2), (0, 4), 6), *[None] * 20, *line((10, 106), (0, 4), 5)]
    video, labels = film(path, size=(60, 140))
    assert numbers(video, labels)[1] == 1
    back = [(y, x if t < 20 else 126 - x) for t, (y, x) in enumerate(p or (0, 0) for p in path)]
    path = [b if p else None for b, p in zip(back, path, strict=True)]
    assert numbers(*film(path, size=(60, 140)))[1] == 1


def test_what_comes_out_behind_a_pole_is_what_still_goes_in_even_without_flow():
    video, labels = film(line((15, 2), (0, 3), 22), side=30, size=(60, 100), pole=(40, 54))
    still = Video(video.frames, [np.zeros_like(flow) for flow in video.flow])
    found, count = numbers(still, labels)
    assert count == 1 and agrees(found, labels)


def test_a_tear_in_one_frame_makes_no_second_object():
    video, labels = film(line((10, 10), (1, 1), 10), side=80, size=(300, 300))
    labels[4][:, 50:54] = 0
    assert numbers(video, labels)[1] == 1


def test_specks_are_of_the_nearest_object():
    video, labels = film([(4, 4)] * 4, [(40, 60)] * 4, size=(200, 200))
    labels[2][30, 4] = labels[2][70, 60] = 1
    found, count = numbers(video, labels)
    assert count == 2
    assert found[2][30, 4] == found[2][5, 5] and found[2][70, 60] == found[2][41, 61]
    labels[0] = np.zeros_like(labels[0])
    labels[0][100, 100] = 1  # nothing but a speck
    numbers(video, labels)


def test_what_is_faint_beside_the_largest_is_no_object():
    video, labels = film([(4, 4)] * 4, side=100, size=(200, 200))
    for label in labels:
        label[150:158, 150:158] = 1
    assert numbers(video, labels)[1] == 1
    for label in labels:
        label[150:162, 150:162] = 1
    assert numbers(video, labels)[1] == 2


def test_what_is_left_over_goes_to_the_nearest_of_those_kept():
    corners = [(y, x) for y in range(2, 60, 12) for x in range(2, 78, 13)]
    video, labels = film(*[[c] * 3 for c in corners], colours=[RED] * 30, side=6)
    video.frames[0][...] = 0  # colours tell nothing
    assert numbers(video, labels)[1] == 20
    sides = [(4, 30), (4, 60), (30, 4), (46, 4)]
    video, labels = film(*[[c] * 3 for c in sides], colours=[RED] * 4, side=12)
    for label in labels[:2]:
        label[4:16, 60:] = label[46:] = 0  # the second and last are seen less
    found, count = numbers(video, labels, most=2)
    assert count == 2
    assert found[2][5, 35] == found[2][5, 65] != found[2][35, 5] == found[2][50, 5]


def test_a_video_without_foreground_has_one_empty_object():
    video, labels = film([(4, 4)] * 3)
    for masks in (np.zeros((3, *SIZE)), [labels[0] * 0, labels[1], labels[0] * 0]):
        assert numbers(video, masks)[1] == 1
    alone, _ = numbers(Video(video.frames[:1]), labels[:1])
    np.testing.assert_array_equal(alone, labels[:1])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7])
def test_scores_keep_their_values_and_their_side_of_the_threshold(threshold):
    rng = np.random.default_rng(0)
    near = np.float32(threshold) + np.float32(1e-6) * rng.integers(-2, 3, SIZE, np.int32)
    maps = np.stack([near, rng.random(SIZE)]).clip(0, 1).astype(np.float32)
    video = Video([np.zeros((*SIZE, 3), np.uint8)] * 2)
    for found, scores in zip(
        tracked(lambda _: iter(maps), threshold=threshold)(video), maps, strict=True
    ):
        np.testing.assert_array_equal(found.max(axis=-1) > threshold, scores > threshold)
        np.testing.assert_allclose(found.max(axis=-1), scores, atol=0.501 / 255)


def bars(motion):
    """Flow of an hourglass lying on its side, whose left half has the motion and the right none."""
    inside = np.zeros((40, 80), bool)
    inside[4:36, 4:38] = inside[4:36, 42:76] = inside[17:23, 38:42] = True
    flow = np.zeros((40, 80, 2))
    flow[:, :40] = motion
    return flow, inside


def test_parts_that_move_away_from_each_other_are_two_bodies():
    flow, inside = bars((0, 3))
    parts = two_bodies(flow, inside)
    assert (parts[~inside] == 0).all() and len(np.unique(parts[4:36, 4:36])) == 1
    assert (parts[4:36, 4:36] != parts[4:36, 44:76]).sum() == 32 * 32
    assert two_bodies(*bars((0, 0.9))) is None


def test_one_motion_a_long_border_and_noise_are_one_body():
    flow, inside = bars((0, 3))
    y, x = np.mgrid[:40, :80]
    assert two_bodies(np.stack([0.2 * y, -0.2 * x], axis=-1), inside) is None
    assert two_bodies(flow, np.ones((40, 80), bool)) is None
    noise = np.random.default_rng(0).normal(size=flow.shape)
    assert two_bodies(4 * noise, inside) is None
    assert two_bodies(flow + 2 * noise, inside) is None


def test_objects_that_touch_throughout_are_told_apart_by_their_motion():
    video, labels = film(line((10, 10), (1, 0), 8), line((32, 34), (-1, 0), 8), side=24)
    for label in labels[:5]:
        assert (label[:-1, 33] * label[1:, 34]).any() or (label[1:, 33] * label[:-1, 34]).any()
    found, count = numbers(Video(video.frames[:5], video.flow), labels[:5])
    assert count == 2 and agrees(found, labels[:5], 0.97)
    labels[1] = np.where(labels[1] == 2, 0, labels[1])  # the one is gone as soon as it is told
    numbers(Video(video.frames[:2], video.flow), labels[:2])
    labels[1] = np.where(video.frames[1][..., 2] == BLUE[2], 2, 0)
    numbers(Video(video.frames[:2], video.flow), labels[:2])


def test_proposals_tell_what_never_parts_whatever_they_are_called():
    video, labels = film(line((20, 10), (0, 2), 8), line((20, 26), (0, 2), 8))
    assert numbers(video, labels)[1] == 1
    proposed = [
        np.array([0, 7, 3] if t % 2 else [0, 1, 200])[label] for t, label in enumerate(labels)
    ]
    proposed[5] = proposed[5].astype(np.uint8) * (labels[5] == 1)  # one is missing
    proposed[3][:10] = 9  # in the background
    found, count = numbers(video, labels, proposals=lambda t: proposed[t])
    assert count == 2 and agrees(found[:5] + found[6:], labels[:5] + labels[6:])
    inverted = [255 - f if t > 3 else f for t, f in enumerate(video.frames)]  # as colours change
    found, count = numbers(Video(inverted, video.flow), labels, proposals=lambda t: proposed[t])
    assert count == 2
    # What is connected to no proposal is an object, too.
    labels[0][50:58, 70:78] = labels[1][50:58, 70:78] = 1
    assert numbers(video, labels, proposals=lambda t: proposed[t])[1] == 3


def test_proposals_are_read_from_a_folder(tmp_path):
    video, labels = film([(20, 10)] * 3, [(20, 26)] * 3)
    for t, label in enumerate(labels[:2]):
        write_mask(tmp_path / f"{t:05d}.png", label)
    with pytest.raises(ValueError, match=r"for 1 of 3 frames; the first .* is 00002 \(.png or"):
        numbers(video, labels, proposals=tmp_path)
    write_mask(tmp_path / "00002.png", labels[2])
    found, count = numbers(video, labels, proposals=str(tmp_path))
    assert count == 2 and agrees(found, labels)
    write_mask(tmp_path / "00002.png", labels[2][1:])
    with pytest.raises(ValueError, match=r"frame 00002: proposals are \(59, 80\) of uint8"):
        numbers(video, labels, proposals=tmp_path)
    for bad in (labels[0] / 2, labels[0][None], labels[0].astype(int) - 1):
        with pytest.raises(ValueError, match="frame 00000: proposals are"):
            numbers(video, labels, proposals=lambda _, bad=bad: bad)


def test_the_segmenter_runs_once_and_the_result_is_always_the_same():
    runs = []
    video, labels = film(line((20, 20), (0, -1), 6), line((20, 36), (0, 2), 6))

    def segmenter(video):
        runs.append(video)
        yield from foreground(labels)(video)

    first, second = (np.stack(list(tracked(segmenter)(video))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(runs) == 2


def test_what_is_no_foreground_is_refused_with_the_frame_named():
    video, labels = film([(4, 4)] * 3)
    good = labels[0].astype(np.float32)
    for bad, words in (
        (np.zeros((*SIZE, 2)), r"frame 00001: scores are \(60, 80, 2\), the frame is \(60, 80\)"),
        (good[1:], r"frame 00001: scores are \(59, 80\)"),
        (good * np.nan, "frame 00001: 4800 scores are not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            list(tracked(lambda _, bad=bad: iter([good, bad]))(video))
    with pytest.raises(ValueError, match="more score maps than its 3 frames"):
        numbers(video, [good] * 4)
    with pytest.raises(ValueError, match=r"flow 0 is \(59, 80, 2\), the frame \(60, 80\)"):
        numbers(Video(video.frames, [flow[1:] for flow in video.flow]), labels)
    for options, words in (
        ({"most": 21}, "1 to 20 objects, not 21"),
        ({"most": 0}, "not 0"),
        ({"threshold": 2}, "threshold is 2"),
    ):
        with pytest.raises(ValueError, match=words):
            tracked(foreground(labels), **options)


def test_separate_objects_of_made_up_clips_are_found_throughout():
    world = dataclasses.replace(MOTION, objects=(2, 3), occlusion=0.0)
    scores = []
    for index in (7, 11, 22):  # their objects stay apart
        made = clip(index, seed=5, size=(96, 160), world=world)
        found, _ = numbers(Video(made.frames), made.labels)
        scores += global_score(found, made.labels).tolist()
    assert len(scores) == 8 and np.mean(scores) >= 0.9


def test_a_real_animal_is_one_object(shared_data):
    root = shared_data / "data/davis16_dev"
    video = open_video(root / "JPEGImages/480p/blackswan")
    files = sorted((root / "Annotations/480p/blackswan").glob("*.png"))[:4]
    masks = [read_labels(file) for file in files]
    assert numbers(Video([video.frames[t] for t in range(4)]), masks)[1] == 1


def test_a_detectors_boxes_tell_objects_apart_that_touch(tmp_path):
    video, labels = film(line((20, 10), (0, 2), 4), line((20, 26), (0, 2), 4))
    assert numbers(video, labels)[1] == 1
    folder = tmp_path / video.name
    folder.mkdir()
    for t, label in enumerate(labels):
        boxes = []
        for k in (2, 1) if t % 2 else (1, 2):
            y, x = np.nonzero(label == k)
            box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
            boxes.append({"bbox": box, "score": 0.95})
        boxes.append({"bbox": [60, 40, 16, 16], "score": 0.3})  # nothing is there
        (folder / f"{t:05d}.json").write_text(json.dumps(boxes))
    for place in (folder, tmp_path):  # of this video, or of all
        found, count = numbers(video, labels, proposals=place)
        assert count == 2 and agrees(found, labels)


def test_where_boxes_overlap_the_smaller_one_is_on_top():
    boxes = [Proposal((2, 1, 2, 2), 0.9), Proposal((0, 0, 5, 4), 0.8), Proposal((-3, 3, 4, 9), 0.7)]
    assert box_proposals.labels(boxes, (5, 6)).tolist() == [
        [2, 2, 2, 2, 2, 0],
        [2, 2, 1, 1, 2, 0],
        [2, 2, 1, 1, 2, 0],
        [2, 2, 2, 2, 2, 0],
        [3, 0, 0, 0, 0, 0],
    ]
