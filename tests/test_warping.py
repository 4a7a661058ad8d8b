"""Feature maps move along flow as on the host, and flows turn round and join."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.flow import warp as host
from jaxvos.layers.warping import chained_flow, inverse_flow, resize_flow, warp

H, W = 9, 12


def maps(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def on_the_hosts_grid(flow: np.ndarray) -> np.ndarray:
    """OpenCV moves by whole 32nds of a pixel."""
    return np.round(flow * 32) / 32


def flow_of(x: float, y: float) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray([x, y]), (H, W, 2))


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_maps_move_as_pictures_do_on_the_host(batch):
    values, flow = maps(*batch, H, W, 3), on_the_hosts_grid(6 * maps(*batch, H, W, 2, seed=1))
    ours = warp(jnp.asarray(values), jnp.asarray(flow))
    for at in np.ndindex(*batch):
        np.testing.assert_allclose(ours[at], host.warp(values[at], flow[at]), atol=1e-5)


def test_the_old_corner_convention_samples_where_grid_sample_did():
    values, flow = maps(H, W, 3), 2 * maps(H, W, 2, seed=1)
    y, x = np.mgrid[:H, :W]
    there = np.stack([(x + flow[..., 0]) * W / (W - 1), (y + flow[..., 1]) * H / (H - 1)], -1) - 0.5
    moved = on_the_hosts_grid(there - np.stack([x, y], -1))  # the same move, said in pixels
    back = (there - moved - np.stack([x, y], -1)) * [(W - 1) / W, (H - 1) / H]
    ours = warp(jnp.asarray(values), jnp.asarray(flow - back, jnp.float32), align_corners=False)
    np.testing.assert_allclose(ours, host.warp(values, moved.astype(np.float32)), atol=1e-4)
    still = warp(jnp.asarray(values), jnp.zeros((H, W, 2)), align_corners=False)
    assert np.abs(still - values).max() > 0.1


def test_a_fading_map_is_zero_outside_and_half_there_half_outside():
    ones = jnp.ones((H, W, 1))
    moved = warp(ones, flow_of(2, 0), fade=True)
    np.testing.assert_array_equal(moved[:, :-2], 1)
    np.testing.assert_array_equal(moved[:, -2:], 0)
    np.testing.assert_allclose(warp(ones, flow_of(0, -0.5), fade=True)[0], 0.5)
    np.testing.assert_array_equal(warp(ones, flow_of(-3.5, 1e30)), 1)
    np.testing.assert_array_equal(warp(ones, flow_of(-1e30, 1e30), fade=True), 0)


def test_a_whole_shift_brings_the_other_maps_values_here():
    values = jnp.asarray(maps(H, W, 2))
    moved = warp(values, flow_of(3, -2), fade=True)
    np.testing.assert_allclose(moved[2:, :-3], values[:-2, 3:], atol=1e-6)
    assert not moved[:2].any() and not moved[:, -3:].any()


def test_the_gradient_follows_flow_and_values_alike():
    values, flow = maps(H, W, 2), on_the_hosts_grid(maps(H, W, 2, seed=1)) + 1 / 64
    ahead = maps(H, W, 2, seed=2)
    of_values, of_flow = jax.grad(lambda v, f: (warp(v, f, fade=True) * ahead).sum(), (0, 1))(
        jnp.asarray(values), jnp.asarray(flow)
    )
    step = 1e-3
    for of, at in ((of_values, 0), (of_flow, 1)):
        change = np.zeros((2, H, W, 2), np.float32)
        change[at, 4, 5, 1] = step
        sums = [
            (np.asarray(warp(values + s * change[0], flow + s * change[1], fade=True)) * ahead)
            .astype(np.float64)
            .sum()
            for s in (1, -1)
        ]
        np.testing.assert_allclose(of[4, 5, 1], (sums[0] - sums[1]) / (2 * step), atol=5e-3)


def test_resized_flow_is_in_the_new_grids_pixels():
    moved = resize_flow(jnp.broadcast_to(jnp.asarray([8.0, 6.0]), (1, 18, 48, 2)), (9, 12))
    np.testing.assert_allclose(moved, np.broadcast_to([2.0, 3.0], (1, 9, 12, 2)), rtol=1e-6)
    corners = resize_flow(
        jnp.broadcast_to(jnp.asarray([8.0, 6.0]), (17, 33, 2)), (3, 5), align_corners=True
    )
    np.testing.assert_allclose(corners, np.broadcast_to([1.0, 0.75], (3, 5, 2)), rtol=1e-6)


def swirl(scale: float) -> jax.Array:
    """A smooth flow that dies away before the edge, so that nothing leaves the map."""
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    fade = scale * np.exp(-6 * (x**2 + y**2))
    return jnp.asarray(np.stack([-y * fade + fade, x * fade], -1), jnp.float32)


def test_the_inverse_flow_leads_back_to_where_the_flow_began():
    flow = swirl(4.0)
    back = inverse_flow(flow)
    np.testing.assert_allclose(back + warp(flow, back), 0, atol=0.02)
    assert np.abs(back + flow).max() > 0.5  # where it lies is not where the flow begins
    np.testing.assert_allclose(inverse_flow(flow_of(3, -2)), flow_of(-3, 2))


def test_a_chain_of_flows_adds_them_along_the_way():
    steps = jnp.stack([swirl(3.0), swirl(-2.0), swirl(1.0)])
    chain = chained_flow(steps[None])[0]
    np.testing.assert_allclose(chain[0], steps[0])
    y, x = np.float32(np.mgrid[:40, :40])
    places = np.stack([x, y], -1)
    for j, step in enumerate(np.asarray(steps)):
        places = places + host.warp(step, on_the_hosts_grid(places - np.stack([x, y], -1)))
        np.testing.assert_allclose(chain[j], places - np.stack([x, y], -1), atol=0.02)
    assert np.abs(chain[2] - steps.sum(0)).max() > 0.1


def test_flow_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"flow \(9, 11, 2\); not \[..., h, w, C\]"):
        warp(jnp.zeros((9, 12, 1)), jnp.zeros((9, 11, 2)))
