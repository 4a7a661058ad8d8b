"""Scores that are carried along motion: what a frame says of the others, and what it must not."""

import itertools
import math

import numpy as np
import pytest

from jaxvos import along_motion
from jaxvos.along_motion import Moment
from jaxvos.along_motion import carried as carried_moments

SIZE = (12, 20)


def carried(moments, **options):
    """The scores alone."""
    return (moment.scores for moment in carried_moments(moments, **options))


def still(*levels):
    """Frames without motion, each of one score."""
    zero = np.zeros((*SIZE, 2), np.float32)
    return [Moment(np.full(SIZE, level, np.float32), zero, zero) for level in levels]


def logit(p):
    return math.log(p / (1 - p))


def by_hand(levels):
    """Scores of a place at rest, by the sentences about them."""

    def one_way(levels):
        kept = [logit(levels[0])]
        for level in levels[1:]:
            own, other = logit(level), kept[-1]
            share = along_motion.RISE if own > other else along_motion.FALL
            kept.append(share * other + (1 - share) * own)
        return kept

    both = zip(one_way(levels), one_way(levels[::-1])[::-1], strict=True)
    return [1 / (1 + math.exp(-(a + b) / 2)) for a, b in both]


def test_what_pauses_is_known_by_what_it_did_before_and_does_next():
    levels = [0.9, 0.9, 0.2, 0.9, 0.9, 0.9]
    found = np.stack(list(carried(still(*levels))))
    np.testing.assert_allclose(found[:, 5, 7], by_hand(levels), atol=1e-5)
    np.testing.assert_array_equal(found, found[:, :1, :1] * np.ones(SIZE, np.float32))
    assert (found > 0.5).all()


def test_what_moves_once_is_noise_and_nothing_stays_nothing():
    found = np.stack(list(carried(still(0.0, 0.1, 0.8, 0.0, 0.0, 0.1))))
    assert found.max() < 0.5
    assert np.stack(list(carried(still(0, 0, 0)))).max() == pytest.approx(along_motion.SURE)


def moving(speed, frames=6, known=0):
    """A thing 4 pixels wide that goes right, known in one frame alone, with its exact flow."""
    moments = []
    for t in range(frames):
        scores, back, ahead = np.full(SIZE, 0.4, np.float32), *np.zeros((2, *SIZE, 2), np.float32)
        place = slice(1 + speed * t, 5 + speed * t)
        scores[4:8, place] = 0.95 if t == known else 0.4
        back[4:8, place, 0], ahead[4:8, place, 0] = -speed, speed
        moments.append(Moment(scores, back, ahead))
    return moments


@pytest.mark.parametrize("known", [0, 3])
def test_scores_go_with_the_thing(known):
    found = list(carried(moving(4, frames=4, known=known)))
    for t, scores in enumerate(found):
        inside = np.zeros(SIZE, bool)
        inside[4:8, 1 + 4 * t : 5 + 4 * t] = True
        assert scores[inside].min() > 0.5 > scores[~inside].max()


def test_flow_whose_way_back_ends_elsewhere_brings_nothing():
    moments = moving(2)
    moments = [m._replace(ahead=m.ahead - 9, back=m.back - 9) for m in moments]
    for moment, scores in zip(moments, carried(moments), strict=True):
        np.testing.assert_allclose(scores, moment.scores, atol=1e-5)


def test_flow_out_of_the_picture_brings_nothing():
    moments = still(0.9, 0.3)
    out = np.full((*SIZE, 2), 30, np.float32)
    moments = [m._replace(ahead=out, back=-out) for m in moments]
    for moment, scores in zip(moments, carried(moments), strict=True):
        np.testing.assert_allclose(scores, moment.scores, atol=1e-5)


@pytest.mark.parametrize(("block", "margin"), [(1, 8), (3, 8), (5, 8), (2, 9)])
def test_frames_are_answered_in_blocks_that_hear_the_frames_behind_them(block, margin):
    moments = moving(1, frames=9)
    whole = list(carried(moments, block=100))
    heard = list(carried(moments, block=block, margin=margin))
    np.testing.assert_allclose(heard, whole, atol=1e-6)
    source = iter(moments)
    next(carried(source, block=2, margin=3))
    assert len(list(source)) == 3, "it keeps block + margin + 1 frames of a video of any length"


def test_the_margin_is_all_that_is_heard():
    moments = still(*[0.3] * 4, *[0.95] * 4)
    alone = list(carried(itertools.islice(moments, 5), block=100))[:2]
    np.testing.assert_allclose(list(carried(moments, block=2, margin=3))[:2], alone, atol=1e-6)


def test_blocks_of_no_frames_are_refused():
    with pytest.raises(ValueError, match="block=0"):
        next(carried(still(0.5), block=0))


def test_the_flow_of_each_frame_stays_with_it():
    rng = np.random.default_rng(0)
    moments = [
        Moment(moment.scores, *rng.normal(size=(2, *SIZE, 2)).astype(np.float32))
        for moment in still(*[0.5] * 6)
    ]
    for given, found in zip(moments, carried_moments(moments, block=2, margin=1), strict=True):
        assert found.back is given.back and found.ahead is given.ahead
