"""TMO's fusion, selection, protocol and loss; its arithmetic is pinned by tests/parity."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvos.flow.colour import picture
from jaxvos.layers.resize import bicubic
from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import initialise, shapes
from jaxvos.systems import tmo
from jaxvos.typing import Video

TINY = {"depths": (1, 1, 1, 1), "width": 4, "features": 8}
SIZE = (64, 32)


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    """Pictures of squares, each of a colour of its own."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (count, 4, 6, 3), np.uint8)
    return [np.repeat(np.repeat(s, 10, 0), 10, 1)[: size[0], : size[1]] for s in squares]


def flows(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    coarse = 3 * rng.standard_normal((count, 4, 6, 2)).astype(np.float32)
    return [np.repeat(np.repeat(c, 10, 0), 10, 1)[: size[0], : size[1]] for c in coarse]


def video(count: int, size: tuple[int, int] = (40, 60)) -> Video:
    return Video(frames(count, size), flows(count - 1, size))


@pytest.fixture(scope="module")
def resnet():
    model = tmo.TMO(**TINY)
    return model, jax.device_get(initialise(tmo.SYSTEM, model, 0))


@pytest.fixture(scope="module")
def mit():
    """With encoders that are not numb at first, as the small first weights leave them."""
    model = tmo.TMO(**TINY, encoder="mit", drop=0.9)
    variables = jax.device_get(initialise(tmo.SYSTEM, model, 0))
    for name in ("app_encoder", "mo_encoder"):
        made = variables["params"][name]
        variables["params"][name] = jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, made)
    return model, variables


@partial(jax.jit, static_argnames=("model", "train"))
def run(model, variables, pictures, moves, train=False, seed=0):
    """Logits and changed statistics for prepared clips [B, T, H, W, 3]."""
    key = {"dropout": jax.random.key(seed)}
    return model.apply(variables, pictures, moves, train, rngs=key, mutable=["batch_stats"])


def clip(count: int) -> tuple[jax.Array, jax.Array]:
    """Prepared frames and flow pictures [1, T, H, W, 3]; the last flow is there twice."""
    small = np.stack([cv2.resize(f, SIZE[::-1]) for f in frames(count)])
    moves = [cv2.resize(f, SIZE[::-1]) for f in flows(max(count - 1, 1))]
    moves = np.stack([*moves, moves[-1]])[:count]
    return tmo.prepare(jnp.asarray(small))[None], tmo.prepare_flow(jnp.asarray(moves))[None]


@partial(jax.jit, static_argnames="model")
def alone(model, variables, frame, flow):
    """Logits [H, W, 2] of one prepared frame, through the parts of the network."""
    apply = partial(model.apply, variables)
    app, mo = apply(frame[None], method="appearance"), apply(flow[None], method="motion")
    return apply(app, mo, method="decode")[0]


def test_flow_is_drawn_by_the_colour_wheel_and_normalised_as_pictures_are():
    flow = flows(1)[0]
    expected = tmo.prepare(jnp.asarray(picture(flow)))
    off = np.abs(tmo.prepare_flow(jnp.asarray(flow)) - expected) * 255 * 0.229
    assert off.max() < 1.1 and np.mean(off > 0.1) < 0.01  # a level, where float32 cuts elsewhere
    still = tmo.prepare_flow(jnp.zeros((4, 5, 2)))
    np.testing.assert_allclose(
        still, np.broadcast_to(tmo.prepare(np.float32([[[255] * 3]])), still.shape)
    )


@pytest.mark.parametrize("name", ["resnet", "mit"])
def test_a_clip_is_answered_frame_by_frame_but_for_the_last_which_only_lends_its_flow(
    name, request
):
    model, variables = request.getfixturevalue(name)
    pictures, moves = clip(3)
    logits, _ = run(model, variables, pictures, moves)
    assert logits.shape == (1, 2, *SIZE, 2) and logits.dtype == jnp.float32
    for t in (0, 1):
        expected = alone(model, variables, pictures[0, t], moves[0, t])
        np.testing.assert_allclose(logits[0, t], expected, atol=1e-4)
    assert np.abs(logits[0, 0] - logits[0, 1]).max() > 1e-3
    single, _ = run(model, variables, pictures[:, :1], moves[:, :1])
    np.testing.assert_allclose(single[:, 0], logits[:, 0], atol=1e-4)


def test_both_encoders_count_and_each_has_weights_of_its_own(resnet):
    model, variables = resnet
    pictures, moves = clip(2)
    logits, _ = run(model, variables, pictures, moves)
    for changed in ((moves, moves), (pictures, pictures), (moves, pictures)):
        assert np.abs(run(model, variables, *changed)[0] - logits).max() > 1e-3


def test_where_nothing_moves_the_frame_takes_the_flows_place_in_that_frame_alone(resnet):
    model, variables = resnet
    pictures, moves = (jnp.concatenate(x) for x in zip(clip(2), clip(2), strict=True))
    moves = moves.at[1].set(tmo.prepare_flow(jnp.zeros((*SIZE, 2))))
    logits, _ = run(model, variables, pictures, moves)
    expected, _ = run(model, variables, pictures, moves.at[1].set(pictures[1]))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    nearly = tmo.prepare_flow(jnp.zeros((*SIZE, 2)).at[3, 4].set(1.0))
    assert np.abs(run(model, variables, pictures, moves.at[1].set(nearly))[0] - logits).max() > 1e-3


def test_pictures_of_any_size_are_answered_at_it(resnet):
    model, variables = resnet
    odd = jnp.zeros((2, 1, 45, 51, 3))
    answers = jax.eval_shape(model.apply, variables, odd, odd)
    assert answers.shape == (2, 1, 45, 51, 2)


def test_attention_over_channels_asks_mean_and_maximum_and_over_places_too():
    layer = tmo.CBAM()
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    variables = layer.init(jax.random.key(1), x)
    p = jax.tree.map(lambda leaf: leaf + 0.1, variables)["params"]

    def conv(y, name):
        made = jax.lax.conv_general_dilated(
            y, p[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return made + p[name]["bias"].reshape(1, 1, 1, -1)

    relu, sigmoid = (lambda y: np.maximum(y, 0)), jax.nn.sigmoid
    y = conv(x, "conv1")
    asked = sum(
        conv(relu(conv(pool(y, axis=(1, 2), keepdims=True), "channels0")), "channels1")
        for pool in (np.mean, np.max)
    )
    y = y * sigmoid(asked)
    both = np.concatenate([np.mean(y, -1, keepdims=True), np.max(y, -1, keepdims=True)], -1)
    expected = y * sigmoid(conv(relu(conv(both, "places0")), "places1"))
    np.testing.assert_allclose(layer.apply({"params": p}, x), expected, atol=1e-5)


def test_confidence_of_worked_numbers_counts_both_classes():
    sure = np.log([[0.95, 0.05], [0.02, 0.98], [0.5, 0.5]]).astype(np.float32)
    logits = jnp.asarray(sure)[None, None]  # one row of three places
    np.testing.assert_allclose(tmo.confidence(logits), [np.hypot(0.05, 0.08)], rtol=1e-4)


def test_each_frame_has_the_surer_answer_and_flows_if_they_are_equal():
    unsure, sure = jnp.zeros((3, 2, 2, 2)), jnp.zeros((3, 2, 2, 2)).at[..., 1].set(5.0)
    image = jnp.stack([sure[0], unsure[1], sure[2][..., ::-1]])
    flow = jnp.stack([unsure[0], sure[1], sure[2]])
    chosen = tmo.surer(image, flow)
    np.testing.assert_array_equal(chosen, jnp.stack([image[0], flow[1], flow[2]]))


def test_loss_is_the_cross_entropy_of_both_classes_of_the_frames_that_are_answered():
    logits = jax.random.normal(jax.random.key(0), (2, 2, 3, 4, 2))
    masks = (jax.random.uniform(jax.random.key(1), (2, 3, 3, 4, 1)) > 0.5).astype(jnp.float32)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, masks[:, :2, ..., 0].astype(int))
    total, metrics = tmo.loss(logits, {"masks": masks})
    np.testing.assert_allclose(total, each.mean(), rtol=1e-5)
    assert list(metrics) == ["video_loss"]
    of_image, metrics = tmo.loss(logits[:, :1], {"mask": masks[:, 0]})
    np.testing.assert_allclose(of_image, each[:, 0].mean(), rtol=1e-5)
    assert list(metrics) == ["image_loss"]


def test_frozen_statistics_stay_in_training_and_others_move(resnet):
    model, variables = resnet
    pictures, moves = clip(2)
    _, changed = run(model, variables, pictures, moves, train=True)
    same = changed.get("batch_stats", variables["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, same, variables["batch_stats"])
    _, changed = run(model.copy(frozen=False), variables, pictures, moves, train=True)
    for encoder in ("app_encoder", "mo_encoder"):
        old, new = (v["batch_stats"][encoder]["bn1"]["mean"] for v in (variables, changed))
        assert np.abs(old - new).max() > 1e-3


def test_the_transformer_drops_paths_in_training_alone(mit):
    model, variables = mit
    assert "batch_stats" not in variables
    pictures, moves = clip(2)
    a, b = (run(model, variables, pictures, moves, train=True, seed=i)[0] for i in (1, 2))
    assert np.abs(a - b).max() > 1e-3
    a, b = (run(model, variables, pictures, moves, seed=i)[0] for i in (1, 2))
    np.testing.assert_array_equal(a, b)


def by_hand(model, variables, whole, motion):
    """The released schedule: one frame after the other, resized and chosen in the network."""
    for t, frame in enumerate(whole.frames):
        size = frame.shape[:2]
        small = tmo.prepare(bicubic(jnp.asarray(frame, jnp.float32), SIZE))
        by_image = alone(model, variables, small, small)
        flow = whole.flow[min(t, len(whole.flow) - 1)]
        moves = tmo.prepare(bicubic(jnp.asarray(picture(flow), jnp.float32), SIZE))
        by_flow = alone(model, variables, small, moves)
        image = motion == "image" or tmo.confidence(by_image[None]) > tmo.confidence(by_flow[None])
        image = image and motion != "flow"
        logits = bicubic(by_image if image else by_flow, size)
        yield image, jax.nn.softmax(logits, axis=-1)[..., 1]


@pytest.mark.parametrize("motion", ["flow", "image", "select"])
def test_protocol_equals_the_released_schedule(resnet, motion):
    model, variables = resnet
    whole = video(3)
    ours = list(tmo.segmenter(model, variables, size=SIZE, motion=motion, batch=2)(whole))
    for scores, (_, expected) in zip(ours, by_hand(model, variables, whole, motion), strict=True):
        assert scores.shape == (40, 60) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_hard_scores_are_the_masks_of_the_soft_ones(resnet):
    soft, hard = (list(tmo.segmenter(*resnet, size=SIZE, hard=h)(video(2))) for h in (0, 1))
    for a, b in zip(soft, hard, strict=True):
        np.testing.assert_array_equal(a > 0.5, b == 1)
        assert set(np.unique(b)) == {0, 1} and b.dtype == np.float32


def test_without_motion_no_flow_is_looked_at(resnet):
    class Untouchable(list):
        def __getitem__(self, t):
            raise AssertionError("flow was read")

    segment = tmo.segmenter(*resnet, size=SIZE, motion="image", batch=2)
    given = list(segment(Video(frames(3), Untouchable([0, 0]))))
    np.testing.assert_array_equal(given, list(segment(Video(frames(3)))))


def test_any_length_compiles_once_and_decodes_every_frame_once(resnet):
    class Counted(list):
        read = 0

        def __getitem__(self, t):
            type(self).read += 1
            return super().__getitem__(t)

        def __iter__(self):
            return (self[t] for t in range(len(self)))

    segment = tmo.segmenter(*resnet, size=SIZE, batch=2)
    list(segment(video(2)))
    compiled = tmo._answer._cache_size()
    whole = video(5)
    assert len(list(segment(whole._replace(frames=Counted(whole.frames))))) == 5
    assert tmo._answer._cache_size() == compiled and Counted.read == 5


def test_a_video_of_one_frame_has_no_flow_and_a_still_one_needs_none(resnet):
    flow, image = (tmo.segmenter(*resnet, size=SIZE, motion=m) for m in ("flow", "image"))
    for lonely in (Video(frames(1)), Video(frames(1), [])):
        np.testing.assert_array_equal(next(flow(lonely)), next(image(lonely)))
    still = Video(frames(2), [np.zeros((40, 60, 2), np.float32)])
    np.testing.assert_allclose(list(flow(still)), list(image(still)), atol=1e-5)
    (speck,) = flow(Video(frames(1, (1, 1))))
    assert speck.shape == (1, 1) and 0 <= speck <= 1


def test_what_cannot_be_done_is_said(resnet):
    segment = tmo.segmenter(*resnet, size=SIZE)
    with pytest.raises(ValueError, match=r"no optical flow.*--flow dis.*motion=image"):
        next(segment(Video(frames(3))))
    with pytest.raises(ValueError, match=r"3 frames and 1 fields of flow: .* 2, or have it"):
        next(segment(Video(frames(3), flows(1))))
    with pytest.raises(ValueError, match=r"motion='both'.*flow, image, select"):
        tmo.segmenter(*resnet, motion="both")
    with pytest.raises(ValueError, match="at least 32 x 32"):
        tmo.segmenter(*resnet, size=(16, 64))
    with pytest.raises(ValueError, match=r"no encoder 'vgg'\. There are: resnet, mit"):
        shapes(tmo.SYSTEM, tmo.TMO(encoder="vgg"))


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(resnet):
    model, variables = resnet
    half = model.copy(dtype="bfloat16")
    made = jax.tree.leaves(shapes(tmo.SYSTEM, half))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    a, b = (jax.nn.softmax(run(m, variables, *clip(2))[0])[..., 1] for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.05


def test_recipes_train_the_published_networks():
    resnet, mit = (tmo.TMO(**model_options(read_recipe(f"tmo{mode}"))) for mode in ("", ":mit"))
    assert (resnet, mit) == (tmo.TMO(), tmo.TMO(encoder="mit", depths=(2, 2, 2, 2)))
