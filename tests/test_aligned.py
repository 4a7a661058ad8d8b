"""Motion against the scene: what is left after the camera's own is taken out."""

import cv2
import numpy as np
import pytest

from jaxvos.flow.aligned import Aligned, aligned, channels, neighbour, whole

SIZE = (160, 224)


def scene(seed: int = 0) -> np.ndarray:
    """A large grey picture with detail at all sizes."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((320, 448), np.float32)
    for cell in (4, 8, 16, 32):
        grid = rng.random((320 // cell, 448 // cell), np.float32)
        picture += cell**0.5 * cv2.resize(grid, (448, 320), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def view(scene: np.ndarray, x: float, y: float, zoom: float = 1.0) -> np.ndarray:
    """What a camera at (x, y) sees."""
    matrix = np.float32([[zoom, 0, x], [0, zoom, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(scene, matrix, SIZE[::-1], flags=flags)


def panned(*, fast: bool) -> Aligned:
    """A camera that moves by (12, -5) while a square goes 6 pixels to the right on the screen."""
    ground, thing = scene(), scene(1)
    first, second = view(ground, 60, 60), view(ground, 72, 55)
    first[60:100, 80:130] = thing[60:100, 80:130]
    second[60:100, 86:136] = thing[60:100, 80:130]
    return aligned(first, second, fast=fast)


@pytest.fixture(scope="module", params=(False, True), ids=("full", "fast"))
def pan(request):
    return panned(fast=request.param)


def test_fast_motion_is_refined_in_fewer_rounds(monkeypatch):
    whole_rounds, few = (panned(fast=fast).residual for fast in (False, True))
    assert 0 < np.abs(whole_rounds - few).mean() < 0.3
    monkeypatch.setattr("jaxvos.flow.aligned.FAST_ROUNDS", 5)  # as many as DIS's own
    np.testing.assert_array_equal(panned(fast=True).residual, whole_rounds)


def test_a_panning_camera_leaves_the_scene_at_rest_and_the_object_in_motion(pan):
    length = np.linalg.norm(pan.residual, axis=-1)
    inside = np.zeros(length.shape, bool)
    inside[32:48, 43:62] = True
    around = cv2.dilate(np.uint8(inside), np.ones((17, 17))) == 0
    assert np.median(length[around]) < 0.2
    np.testing.assert_allclose(np.median(pan.residual[inside], axis=0), [18, -5], atol=0.5)


def test_the_whole_flow_is_the_cameras_and_the_objects(pan):
    flow = whole(pan)
    np.testing.assert_allclose(np.median(flow, axis=(0, 1)), [-12, 5], atol=0.2)
    np.testing.assert_allclose(np.median(flow[32:48, 43:62], axis=(0, 1)), [6, 0], atol=0.5)


def test_another_search_is_shown_the_colours_with_the_camera_taken_out():
    ground = np.stack([scene(), scene(1), scene(2)], axis=-1)
    first, second = view(ground, 60, 60), view(ground, 72, 55)
    shown = []

    def search(a, b):
        shown.append((a, b))
        return np.full((*SIZE, 2), (3, -1), np.float32)

    found = aligned(first, second, search=search)
    np.testing.assert_array_equal(found.residual, np.full((80, 112, 2), (3, -1)))
    np.testing.assert_allclose(np.median(whole(found), axis=(0, 1)), [3 - 12, -1 + 5], atol=0.2)
    ((a, b),) = shown
    np.testing.assert_array_equal(a, first)
    middle = np.s_[20:-20, 20:-20]
    assert np.abs(np.int32(a) - b)[middle].mean() < 2
    assert np.abs(np.int32(a) - second)[middle].mean() > 10


def test_zoom_is_the_cameras_too():
    ground = scene()
    found = aligned(view(ground, 50, 50), view(ground, 56, 54, zoom=0.95))
    assert np.median(np.linalg.norm(found.residual, axis=-1)) < 0.3
    assert np.linalg.norm(whole(found), axis=-1).max() > 4


def test_a_static_scene_and_a_blank_one_have_no_motion():
    ground = view(scene(), 50, 50)
    for picture in (ground, np.full(SIZE, 90, np.uint8)):
        found = aligned(picture, picture.copy())
        shown = channels(found)
        assert np.isfinite(shown).all() and np.abs(shown).max() < 0.5


def test_channels_have_no_scale():
    rng = np.random.default_rng(0)
    residual = 3 * rng.standard_normal((20, 30, 2)).astype(np.float32)
    shift = np.array([[1, 0, 4.0], [0, 1, -2], [0, 0, 1]])
    one, two = (
        channels(Aligned(k * residual, np.eye(3) + k * (shift - np.eye(3)))) for k in (1, 2)
    )
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert one.shape == (20, 30, 5) and np.abs(one[..., [0, 1, 3, 4]]).max() <= 4
    rms = np.sqrt((residual**2).sum(-1).mean())
    np.testing.assert_allclose(one[..., :2], np.clip(residual / rms, -4, 4), atol=1e-5)
    # The median of the whole flow is taken off, not the camera's motion alone.
    flow = whole(Aligned(residual, shift)) - np.median(
        whole(Aligned(residual, shift))[::2, ::2], axis=(0, 1)
    )
    expected = flow / np.sqrt((flow**2).sum(-1).mean())
    np.testing.assert_allclose(one[..., 3:], np.clip(expected, -4, 4), atol=1e-5)


def test_the_length_of_motion_below_noise_is_measured_in_pixels():
    residual = np.zeros((4, 6, 2), np.float32)
    residual[0, 0] = 3 * 0.15, 4 * 0.15
    shown = channels(Aligned(residual, np.eye(3)))
    assert shown[0, 0, 2] == pytest.approx(np.log(1 + 5), rel=1e-5)
    assert shown[1, 1, 2] == 0


@pytest.mark.parametrize(
    ("t", "step", "length", "expected"),
    [
        *((4, -2, 9, 2), (4, 2, 9, 6), (0, -1, 9, 1), (1, -2, 9, 3), (8, 2, 9, 6)),
        *((0, 2, 2, 1), (1, -2, 2, 0), (0, -1, 1, 0), (1, 2, 3, 2)),
    ],
)
def test_neighbours_beyond_the_ends_are_those_on_the_other_side(t, step, length, expected):
    assert neighbour(t, step, length) == expected


@pytest.mark.parametrize("sizes", [((64, 64), (64, 66)), ((64, 65), (64, 65))])
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(ValueError, match="grey pictures"):
        aligned(*(np.zeros(size, np.uint8) for size in sizes))
    with pytest.raises(ValueError, match=r"pictures \[H, W, 3\]"):
        aligned(*(np.zeros((*size, 3), np.uint8) for size in sizes), search=lambda a, b: a)


def test_a_search_is_not_shown_grey_pictures():
    with pytest.raises(ValueError, match=r"pictures \[H, W, 3\] .* not \(64, 64\)"):
        aligned(*np.zeros((2, 64, 64), np.uint8), search=lambda a, b: a)
