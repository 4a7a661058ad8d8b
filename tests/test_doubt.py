"""Sentences about results that a person should not trust without a look."""

import numpy as np
import pytest

from jaxvos.programs.doubt import Changes, doubts


def words(found):
    return [
        next(key for key in ("single", "stand still", "masks are empty", "Nearly") if key in text)
        for text in found
    ]


@pytest.mark.parametrize(
    ("foreground", "change", "expected"),
    [
        ([0.1, 0.2, 0.1], 3.0, []),
        ([0.0, 0.0, 0.01], 3.0, []),
        ([0.0, 0.0, 0.0], 3.0, ["masks are empty"]),
        ([0.0, 0.0], 0.1, ["stand still", "masks are empty"]),
        ([0.1, 0.1], 0.1, ["stand still"]),
        ([0.0], 0.0, ["single", "masks are empty"]),
        ([0.7, 0.6, 0.1], 9.0, ["Nearly"]),
        ([0.7, 0.4, 0.1], 9.0, []),
    ],
)
def test_each_sentence_has_its_rule(foreground, change, expected):
    assert words(doubts(foreground, change)) == expected


def test_changes_are_those_of_pictures_and_not_of_noise():
    rng = np.random.default_rng(0)
    ground = rng.integers(40, 200, (480, 640, 3)).astype(np.float32)
    still, moving = Changes(), Changes()
    smooth = np.repeat(np.repeat(ground[::96, ::80], 96, 0), 80, 1)
    for t in range(4):
        noisy = smooth + 2 * rng.standard_normal(smooth.shape)
        still.see(noisy.clip(0, 255).astype(np.uint8))
        moving.see(np.roll(noisy, 12 * t, axis=1).clip(0, 255).astype(np.uint8))
    assert still.largest < 0.5 < 2 < moving.largest
