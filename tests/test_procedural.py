"""Made-up video: the same bits for the same numbers; labels and flow that fit the pictures."""

import hashlib
import math
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy import ndimage

from data_pipelines.procedural import MOTION, SALIENT, clip
from data_pipelines.rendering import (
    Layer,
    Pose,
    Ripple,
    render,
    rotation,
    scaling,
    to_frame,
    to_surface,
    translation,
)

SIZE = 96, 160
CLEAN = replace(MOTION, illumination=0.0, noise=0.0, shutter=0.0, shadow=0.0)
"""Where colours are those of the surfaces alone, so that they show whether the flow is right."""


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def pulled_back(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """What of the next `frame` the `flow` leads to from each pixel: [H, W, 3] float32."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    picture = frame.astype(np.float32)
    return cv2.remap(picture, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)


def inner(mask: np.ndarray, by: int = 3) -> np.ndarray:
    """The pixels of a mask at least `by` pixels from its edge and from the picture's."""
    return ndimage.binary_erosion(mask, iterations=by)


def still_seen(video, t: int) -> np.ndarray:
    """Pixels of frame t whose object is also seen where the flow leads to in frame t + 1."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    to_x = np.rint(x + video.flow[t, ..., 0]).astype(int)
    to_y = np.rint(y + video.flow[t, ..., 1]).astype(int)
    inside = (to_x >= 0) & (to_x < SIZE[1]) & (to_y >= 0) & (to_y < SIZE[0])
    there = video.labels[t + 1][to_y.clip(0, SIZE[0] - 1), to_x.clip(0, SIZE[1] - 1)]
    return inside & (there == video.labels[t])


def checkered(height: int, width: int) -> np.ndarray:
    """An opaque picture [h, w, 4] with smooth bumps, so that any shift shows."""
    y, x = np.mgrid[:height, :width]
    bumps = 128 + 60 * np.sin(x / 5) + 60 * np.cos(y / 7)
    return np.stack([bumps, 255 - bumps, bumps, np.full_like(bumps, 255)], -1).astype(np.uint8)


def moved(dx: float, dy: float, start=(0.0, 0.0)):
    return lambda t: Pose(translation(start[0] + dx * t, start[1] + dy * t), np.eye(3))


def test_the_same_numbers_give_the_same_bits_in_another_process():
    code = (
        "import sys, hashlib; from data_pipelines.procedural import clip; "
        "c = clip(3, seed=5, frames=3, size=(96, 160)); sys.stdout.write(hashlib.sha256("
        "c.frames.tobytes() + c.labels.tobytes() + c.flow.tobytes()).hexdigest())"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    clip(4)  # leaves no trace on the next one
    here = clip(3, seed=5, frames=3, size=SIZE)
    assert digest(here.frames, here.labels, here.flow) == elsewhere.stdout


def test_every_index_and_every_seed_is_another_clip():
    clips = [clip(i, seed=s, frames=1, size=SIZE).frames for i in range(6) for s in range(3)]
    assert len({digest(frames) for frames in clips}) == 18


def test_a_shorter_clip_is_the_beginning_of_a_longer_one():
    short, long = (clip(7, frames=n, size=SIZE) for n in (3, 6))
    np.testing.assert_array_equal(short.frames, long.frames[:3])
    np.testing.assert_array_equal(short.labels, long.labels[:3])
    np.testing.assert_array_equal(short.flow, long.flow[:2])


def test_surfaces_that_only_shift_have_the_flow_of_their_shift():
    layers = [
        Layer(checkered(*SIZE), moved(2.0, -1.0), endless=True),
        Layer(checkered(30, 40), moved(-3.5, -0.5, start=(70, 30)), label=1),
    ]
    pictures, labels, flow = render(layers, 3, SIZE)
    for t in range(2):
        assert np.unique(labels[t]).tolist() == [0, 1]
        np.testing.assert_allclose(flow[t][labels[t] == 0], [[2.0, -1.0]] * (labels[t] == 0).sum())
        np.testing.assert_allclose(flow[t][labels[t] == 1], [[-3.5, -0.5]] * (labels[t] == 1).sum())
    # Whole pixels need no resampling: the background is the very same one, further right and up.
    left = np.s_[:, 40:60]
    np.testing.assert_array_equal(pictures[1][:-1][left], pictures[0][1:][:, 38:58])
    rows, columns = np.nonzero(labels[2])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (29, 58, 63, 102)


def test_the_next_frame_pulled_back_by_the_flow_is_this_frame():
    tested = []
    for index in range(12):
        video = clip(index, frames=2, size=SIZE, world=CLEAN)
        trusted = inner(still_seen(video, 0))
        for label in np.unique(video.labels[0]):
            where = trusted & inner(video.labels[0] == label, 2)
            if where.sum() < 150:
                continue

            def error(*shift: float, video=video, where=where) -> float:
                flow = video.flow[0] + np.float32(shift)
                difference = pulled_back(video.frames[1], flow) - video.frames[0]
                return float(np.median(np.abs(difference[where]).mean(axis=-1)))

            # Half a pixel off in any direction fits worse, on every single surface.
            off = [error(0.5, 0), error(-0.5, 0), error(0, 0.5), error(0, -0.5)]
            assert error(0, 0) < min(off)
            tested.append((label, error(0, 0) / np.mean(off)))
    assert sum(label == 0 for label, _ in tested) == 12
    assert sum(label != 0 for label, _ in tested) >= 8
    assert np.median([ratio for _, ratio in tested]) < 0.5


def test_labels_move_with_the_flow():
    kept = []
    for index in range(12):
        video = clip(index, frames=3, size=SIZE, world=CLEAN)
        for t in range(2):
            whole = inner(np.ones(SIZE, bool), 8)
            for label in set(np.unique(video.labels[t])) - {0}:
                mask = whole & inner(video.labels[t] == label, 2)
                if mask.sum() > 50:
                    kept.append(still_seen(video, t)[mask].mean())
    # What is missing has gone behind something.
    assert len(kept) > 20
    assert np.median(kept) > 0.99
    assert np.mean(kept) > 0.9


def test_a_surface_point_comes_back_from_the_frame_exactly():
    tilted = np.eye(3)
    tilted[2, :2] = 1e-4, -2e-4
    pose = Pose(
        translation(200, 100) @ tilted @ rotation(0.3) @ scaling(1.2),
        translation(-5, 8) @ rotation(-0.7),
        Ripple(12.0, 0.05, 0.06, 1.0, 7.0, 0.08, 2.0),
    )
    x, y = np.random.default_rng(0).uniform(-60, 60, (2, 500))
    back = to_surface(pose, to_frame(pose, (x, y)))
    np.testing.assert_allclose(back, (x, y), atol=1e-9)
    straight = to_frame(pose._replace(ripple=None), (x, y))
    assert np.abs(np.subtract(to_frame(pose, (x, y)), straight)).max() > 5


def test_a_rippling_surface_is_drawn_where_its_map_says():
    spot = np.zeros((60, 80, 4), np.uint8)
    spot[20:23, 50:53] = 255
    pose = Pose(
        translation(60, 40), translation(-40, -30), Ripple(9.0, 0.0, 0.1, 0.4, 5.0, 0.1, 1.0)
    )
    layers = [
        Layer(checkered(*SIZE), moved(0, 0), endless=True),
        Layer(spot, lambda t: pose, label=1),
    ]
    _, labels, _ = render(layers, 1, SIZE)
    rows, columns = np.nonzero(labels[0])
    x, y = to_frame(pose, (np.array(51.0), np.array(21.0)))
    assert (columns.mean(), rows.mean()) == pytest.approx((float(x), float(y)), abs=0.7)


def test_an_exposure_smears_what_moves_and_leaves_the_middle_where_it_was():
    edge = np.zeros((40, 40, 4), np.uint8)
    edge[...] = 255
    black = np.zeros((*SIZE, 4), np.uint8)
    black[..., 3] = 255
    layers = [
        Layer(black, moved(0, 0), endless=True),
        Layer(edge, moved(12.0, 0, start=(50, 30)), label=1),
    ]
    sharp, labels, _ = render(layers, 1, SIZE)
    blurred, same, _ = render(layers, 1, SIZE, shutter=1.0)
    np.testing.assert_array_equal(labels, same)
    assert np.unique(sharp).tolist() == [0, 255]
    row = blurred[0, 50, :, 0]
    assert row[70] == 255 and row[40] == 0
    # It sweeps 12 pixels, as many on either side, and loses no light.
    assert np.count_nonzero(row[:60]) - np.count_nonzero(row[:60] == 255) >= 6
    assert row.sum() == pytest.approx(40 * 255, rel=0.01)
    assert np.average(np.arange(SIZE[1]), weights=row) == pytest.approx(69.5, abs=0.1)


@pytest.mark.parametrize("world", [MOTION, SALIENT])
def test_every_object_is_seen_in_most_frames(world):
    seen = total = 0
    for index in range(20):
        video = clip(index, frames=6, size=SIZE, world=world)
        objects = max(int(video.labels.max()), 1)
        assert objects <= 3
        areas = [(video.labels == k).mean(axis=(1, 2)) for k in range(1, objects + 1)]
        seen += int((np.array(areas) > 0.002).sum())
        total += 6 * objects
        assert (video.labels != 0).mean() < 0.7
    assert seen / total > 0.9


def test_objects_stand_out_by_their_looks_in_the_salient_world_alone():
    def gap(world) -> float:
        gaps = []
        for index in range(12):
            video = clip(index, frames=1, size=SIZE, world=world)
            warmth = video.frames[0, ..., 0].astype(float) - video.frames[0, ..., 2]
            mask = video.labels[0] != 0
            gaps.append(warmth[mask].mean() - warmth[~mask].mean())
        return float(np.min(gaps)) if world is SALIENT else float(np.abs(np.mean(gaps)))

    assert gap(SALIENT) > 60
    assert gap(MOTION) < 40


def test_objects_move_against_the_background_around_them():
    own = []
    for index in range(20):
        video = clip(index, frames=2, size=SIZE)
        for label in set(np.unique(video.labels[0])) - {0}:
            mask = video.labels[0] == label
            around = ndimage.binary_dilation(mask, iterations=8) & (video.labels[0] == 0)
            if mask.sum() > 100 and around.any():
                difference = np.median(video.flow[0][mask], 0) - np.median(video.flow[0][around], 0)
                own.append(math.hypot(*difference))
    assert np.median(own) > 0.8
    assert np.mean(np.array(own) > 0.25) > 0.85


def test_still_things_are_background_and_stand_still_before_a_camera_at_rest():
    world = replace(CLEAN, objects=(1, 1), camera=0.0, distractors=(4, 4), water=0.0)
    video = clip(2, frames=2, size=SIZE, world=world)
    still = inner(video.labels[0] == 0, 4) & inner(video.labels[1] == 0, 4)
    assert still.mean() > 0.5
    np.testing.assert_allclose(video.flow[0][still], 0, atol=1e-4)
    np.testing.assert_array_equal(video.frames[0][still], video.frames[1][still])


def test_light_noise_and_exposure_change_the_pictures_only():
    clean, dirty = (
        clip(9, frames=2, size=SIZE, world=w) for w in (CLEAN, replace(MOTION, shadow=0))
    )
    np.testing.assert_array_equal(clean.labels, dirty.labels)
    np.testing.assert_array_equal(clean.flow, dirty.flow)
    assert np.abs(clean.frames.astype(int) - dirty.frames).mean() > 1


def test_a_clip_that_cannot_be_made_is_refused():
    for wrong in ({"index": -1}, {"index": 0, "frames": 0}, {"index": 0, "size": (8, 160)}):
        with pytest.raises(ValueError, match="A clip needs index >= 0"):
            clip(**wrong)
    with pytest.raises(ValueError, match="must be endless"):
        render([Layer(checkered(20, 20), moved(0, 0))], 1, SIZE)


def test_no_more_is_drawn_of_a_clip_than_is_seen(monkeypatch):
    """What makes 20 to 50 frames a second: sprites are warped where they are, not all over.

    Seconds themselves are measured by `jaxvos bench --only procedural`.
    """
    drawn = []

    def counted(draw):
        def counting(*arguments, **options):
            picture = draw(*arguments, **options)
            drawn.append(picture.shape[0] * picture.shape[1])
            return picture

        return counting

    for name in ("warpPerspective", "remap"):
        monkeypatch.setattr(cv2, name, counted(getattr(cv2, name)))
    for number in range(8):
        clip(number + 1, frames=8, size=(128, 224))
    assert 1 < sum(drawn) / (8 * 8 * 128 * 224) < 4.5
    assert len(drawn) / (8 * 8) < 35
