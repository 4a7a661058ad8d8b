"""Flow by DIS, moving along it, and smoothing in time."""

import numpy as np
import pytest

from jaxvos.flow.dis import dis
from jaxvos.flow.warp import consistent, warp
from jaxvos.smoothing import smoothed
from jaxvos.typing import Video

SIZE = (48, 64)


def texture(seed=0, size=(80, 96)):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 4, size[1] // 4, 3))
    return coarse.repeat(4, 0).repeat(4, 1).astype(np.uint8)


def moving(count=3, step=(3, 2)):
    """Frames of a camera moving over a texture: a point goes back by the step (x, y) a frame."""
    world = texture()
    return [world[t * step[1] :, t * step[0] :][: SIZE[0], : SIZE[1]] for t in range(count)]


def test_dis_finds_a_shift_in_pixels_x_first():
    a, b = moving(2)
    flow = dis(a, b, finest_scale=0)
    assert flow.shape == (*SIZE, 2) and flow.dtype == np.float32
    np.testing.assert_allclose(np.median(flow[8:-8, 8:-8], axis=(0, 1)), (-3, -2), atol=0.3)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (17, 16)])
def test_dis_takes_pictures_of_any_size(size):
    picture = texture(1, (64, 64))[: size[0], : size[1]]
    assert np.abs(dis(picture, picture)).max() < 1 and dis(picture, picture).shape == (*size, 2)


def test_dis_refuses_what_it_cannot_compare():
    a = texture()
    with pytest.raises(ValueError, match="of one size"):
        dis(a, a[1:])
    with pytest.raises(ValueError, match="uint8"):
        dis(a / 255, a / 255)
    with pytest.raises(ValueError, match="'slow'. There are: ultrafast"):  # noqa: RUF043
        dis(a, a, preset="slow")


def test_warping_fetches_from_where_the_flow_points():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    right = np.zeros((3, 4, 2), np.float32)
    right[..., 0] = 1
    np.testing.assert_allclose(warp(values, right)[:, :3], values[:, 1:])
    np.testing.assert_allclose(warp(values, right)[:, 3], values[:, 3])
    np.testing.assert_allclose(warp(values, right[..., ::-1])[:2], values[1:])
    half = warp(values, right / 2)
    np.testing.assert_allclose(half[:, :3], values[:, :3] + 0.5)
    stacked = np.stack([values, 2 * values], axis=-1)
    np.testing.assert_allclose(warp(stacked, right)[..., 1], 2 * warp(values, right))
    with pytest.raises(ValueError, match=r"Values are \(2, 4\), flow \(3, 4, 2\)"):
        warp(values[:2], right)


def test_ways_forth_and_back_agree_only_where_nothing_is_hidden():
    forth = np.zeros((8, 8, 2), np.float32)
    forth[..., 0] = 2
    assert consistent(forth, -forth).all()
    back = -forth
    back[:, 5] = 3
    odd = ~consistent(forth, back)
    assert odd[:, 3].all() and not odd[:, :3].any() and not odd[:, 4:5].any()


def scores_of(maps):
    return lambda video: iter(maps)


def test_a_flicker_is_smoothed_along_the_motion_not_in_place():
    frames = moving(3)
    object_map = np.zeros((80, 96), np.float32)
    object_map[20:36, 24:48] = 1
    maps = [object_map[2 * t :, 3 * t :][: SIZE[0], : SIZE[1]] for t in range(3)]
    truth = maps[1]
    flicker = [maps[0], np.zeros_like(truth), maps[2]]
    result = list(smoothed(scores_of(flicker), weight=1)(Video(frames)))[1]
    np.testing.assert_allclose(result[20:30, 26:40], 2 / 3, atol=0.1)
    assert result[truth == 0].mean() < 0.05
    steady = list(smoothed(scores_of(maps), weight=1)(Video(frames)))
    assert all(np.abs(s - m).mean() < 0.03 for s, m in zip(steady, maps, strict=True))


def test_nothing_changes_without_weight_nor_in_a_single_frame():
    frames = moving(3)
    maps = [np.full((*SIZE, 2), t / 4, np.float32) for t in range(3)]
    for t, result in enumerate(smoothed(scores_of(maps), weight=0)(Video(frames))):
        np.testing.assert_array_equal(result, maps[t])
    (alone,) = smoothed(scores_of(maps[2:]))(Video(frames[:1]))
    np.testing.assert_array_equal(alone, maps[2])
    with pytest.raises(ValueError, match="not 2"):
        smoothed(scores_of(maps), weight=2)


def test_several_objects_stay_apart():
    frames = moving(3)
    maps = [np.stack([np.full(SIZE, t / 4), np.full(SIZE, 1 - t / 4)], -1) for t in range(3)]
    for result in smoothed(scores_of(maps))(Video(frames)):
        np.testing.assert_allclose(result.sum(-1), 1, atol=1e-6)
        assert result.shape == (*SIZE, 2) and result.dtype == np.float32
