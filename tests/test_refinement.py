"""What a refiner learns from: made once, kept whole, and cut out in step."""

import os
from collections import deque

import numpy as np
import pytest

from data_pipelines import kept_videos, refinement, sources
from data_pipelines.refinement import (
    Pictures,
    RefinementSamples,
    _corner,
    fill,
    looked_at,
    places_of,
    read,
    spoilt,
    varied,
)
from data_pipelines.samples import training_batches
from jaxvos.along_motion import Moment
from jaxvos.colour_guided import matched, settled
from jaxvos.flow import neighbours
from jaxvos.inference import to_size
from jaxvos.recipe import read_recipe
from jaxvos.system import initialise
from jaxvos.systems import mover

SIZE = "frames=3,height=48,width=60"
SPEC = f"procedural:clips=2,{SIZE}+procedural:clips=1,{SIZE},seed=5"


@pytest.fixture(scope="module", autouse=True)
def small():
    """A small network and a small working size, so that neither takes time."""
    model = mover.Mover(widths=(4, 4), heads=(0, 1), fine=2)
    known = model, initialise(mover.SYSTEM, model, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "AREA", 64 * 64)
        patch.setattr(refinement, "of_the_library", lambda: known)
        yield known


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return fill(SPEC, tmp_path_factory.mktemp("cache"))


def test_scores_are_those_of_the_librarys_mover(small, monkeypatch):
    monkeypatch.setattr(refinement, "SPOILT", 0)
    video = sources.videos(SPEC)[0]
    found = looked_at(video, 0)
    assert {x.dtype for x in found} == {np.dtype("uint8")}
    segment = mover.segmenter(*small, refiner=lambda looked: looked.settled)
    expected = np.stack(list(segment(mover.Video(video.frames))))
    np.testing.assert_allclose(found.scores[..., 2] / 255, expected, atol=0.51 / 255)
    np.testing.assert_array_equal(found.pictures, video.frames)
    answer = settled(found.pictures[1], np.float32(found.scores[1, ..., 1]) / 255)
    assert np.abs(answer - found.scores[1, ..., 2] / 255).mean() < 0.01
    np.testing.assert_array_equal(found.masks > 0, np.stack(video.masks) > 0)
    monkeypatch.setattr(refinement, "carried", iter)
    own, answer, _ = np.float32(looked_at(video, 0).scores[1].transpose(2, 0, 1)) / 255
    frames = [np.asarray(frame) for frame in video.frames]
    scores = [moment.scores for moment in mover.moments(*small, frames, deque())][1]
    np.testing.assert_allclose(own, to_size(scores, (48, 60)), atol=0.51 / 255)
    expected = to_size(matched(found.pictures[1], scores), (48, 60))
    np.testing.assert_allclose(answer, expected, atol=0.51 / 255)
    assert np.abs(own - expected).mean() > 0.02


def test_some_are_spoilt_and_a_video_always_alike(monkeypatch):
    video = sources.videos(SPEC)[0]
    first = looked_at(video, 1)
    np.testing.assert_array_equal(looked_at(video, 1).scores, first.scores)
    monkeypatch.setattr(refinement, "SPOILT", 1)
    one, two = looked_at(video, 1), looked_at(video, 2)
    assert (one.scores != two.scores).any()
    monkeypatch.setattr(refinement, "SPOILT", 0)
    assert (one.scores != looked_at(video, 1).scores).any()


def disc(count=4) -> list[Moment]:
    rows, columns = np.mgrid[:40, :60]
    scores = np.float32((rows - 20) ** 2 + (columns - 30) ** 2 < 100)
    still = np.zeros((40, 60, 2), np.float32)
    return [Moment(scores, still, still) for _ in range(count)]


def test_spoilt_scores_are_near_the_true_ones_and_alike_through_a_video():
    moments, near, alike = disc(), [], []
    for seed in range(20):
        found = [m.scores for m in spoilt(moments, np.random.default_rng(seed))]
        assert len(found) == 4 and all(s.min() >= 0 and s.max() <= 1 for s in found)
        near.append(np.abs(found[0] - moments[0].scores).mean())
        alike.append(np.abs(found[0] - found[1]).mean())
    assert 0.01 < np.mean(near) < 0.15 and max(near) > 2 * min(near)
    assert np.mean(alike) < 0.7 * np.mean(near)
    assert len(list(spoilt(disc(1), np.random.default_rng(0)))) == 1


def test_what_is_in_doubt_becomes_less_or_more_so_but_not_what_is_sure():
    for level, spread in ((0.7, 0.05), (0.001, 1e-3), (0.999, 1e-3)):
        (moment, *_) = disc()
        even = moment._replace(scores=np.full((40, 60), level, np.float32))
        found = [
            next(spoilt([even], np.random.default_rng(seed))).scores[20, 30] for seed in range(20)
        ]
        assert (np.std(found) > spread) == (level == 0.7), level


def test_what_is_kept_is_made_once_and_whole(kept, tmp_path, monkeypatch):
    paths = [kept.path(n) for n in range(3)]
    assert all(path.exists() for path in paths) and len({p.parent for p in paths}) == 2
    root = paths[0].parents[2]
    for path, (video, number) in zip(paths[1:], ((1, 1), (2, 0)), strict=True):  # in its part
        made = looked_at(sources.videos(SPEC)[video], number)
        for own, again in zip(read(path), made, strict=True):
            np.testing.assert_array_equal(own, again)
    monkeypatch.setattr(refinement, "looked_at", lambda *_: pytest.fail("made again"))
    assert fill(SPEC, root) == kept == places_of(SPEC, root)
    with monkeypatch.context() as later:
        later.setattr(refinement, "FORM", refinement.FORM + 1)
        assert not any(places_of(SPEC, root).path(n).exists() for n in range(3))
    monkeypatch.setattr(refinement, "looked_at", lambda *_: made)

    def dies(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", dies)
    with pytest.raises(OSError, match="disk full"):
        fill(SPEC, tmp_path)
    assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_processes_share_the_work(tmp_path):
    places = [(str(tmp_path / name),) for name in "abc"]
    assert len(list(kept_videos._done(os.mkdir, places, jobs=2))) == 3
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


@pytest.fixture
def coded(tmp_path):
    """Samples of pictures that say in every channel where a place is."""
    rows, columns = np.mgrid[:96, :128].astype(np.uint8)
    code = np.stack([rows, columns, rows + columns], axis=-1)
    mask = np.where((rows - 48.0) ** 2 + (columns - 64.0) ** 2 < 400, 255, 0).astype(np.uint8)
    path = tmp_path / "0.npz"
    np.savez(path, **Pictures(code[None], code[None], mask[None])._asdict())

    class Places:
        path = staticmethod(lambda number: path)

    return RefinementSamples(np.array([1]), (32, 48), Places)


def test_a_part_is_the_same_of_the_picture_the_scores_and_the_mask(coded, monkeypatch):
    monkeypatch.setattr(refinement, "varied", lambda colours, rng: colours)
    code = np.load(coded.kept.path(0))["pictures"][0]
    mean = code.mean((0, 1)) / 255
    mirrored, steps = set(), set()
    for seed in range(30):
        record = coded(0, np.random.default_rng(seed))
        assert record["names"] == "video 0/00000"
        assert {record[k].dtype for k in ("colours", "scores", "masks")} == {np.dtype("float16")}
        assert record["colours"].shape == (32, 48, 3) and record["masks"].shape == (32, 48, 1)
        colours = record["colours"].astype(np.float32) + mean
        np.testing.assert_allclose(colours, record["scores"], atol=5e-3)
        rows, columns = np.moveaxis(255 * record["scores"][..., :2].astype(np.float32), -1, 0)
        steepness = (rows[-1, 0] - rows[0, 0]) / 31, abs(columns[0, -1] - columns[0, 0]) / 47
        assert steepness[0] == pytest.approx(steepness[1], rel=0.1)  # as tall and wide as it was
        mirrored.add(columns[0, 0] > columns[0, -1])
        steps.add(round(float(rows[-1, 0] - rows[0, 0])))
        inside = (rows - 48) ** 2 + (columns - 64) ** 2
        true = record["masks"][..., 0] > 0.5
        assert (inside[true] < 500).all() and (inside[~true] > 320).all()
    assert mirrored == {True, False} and min(steps) < 25 < 40 < max(steps)


def test_most_parts_are_where_scores_are_wrong_or_an_outline_is(coded, monkeypatch):
    with np.load(coded.kept.path(0)) as arrays:
        mask = arrays["masks"]
    scores = np.repeat(mask[..., None], 3, axis=-1)
    scores[:, :8, :8] = 255  # wrong
    path = coded.kept.path(0)
    np.savez(path, pictures=scores, scores=scores, masks=mask)
    monkeypatch.setattr(refinement, "AT_OUTLINES", 1)
    for seed in range(10):
        record = coded(0, np.random.default_rng(seed))
        assert (np.abs(record["scores"][..., 2:] - record["masks"]) > 0.2).any()


def test_a_place_is_in_the_inner_half_of_its_part_or_as_near_as_the_picture_allows():
    rng = np.random.default_rng(0)
    corner = lambda *at: _corner(at, (32, 48), (96, 128), rng)  # noqa: E731
    offsets = np.array([(50, 60)]) - [corner(50, 60) for _ in range(300)]
    assert offsets.min(0).tolist() == [8, 12] and offsets.max(0).tolist() == [23, 35]
    assert corner(3, 5) == [0, 0] and corner(95, 127) == [64, 80]


def test_colours_vary_in_order_strength_and_sharpness():
    rng = np.random.default_rng(0)
    colours = np.float32(np.random.default_rng(1).normal(0, 0.2, (32, 48, 3)))
    found = np.stack([varied(colours, rng) for _ in range(200)])
    assert found.shape[1:] == colours.shape
    like = np.stack(
        [
            np.abs(np.corrcoef(f[..., c].ravel(), colours[..., 0].ravel())[0, 1])
            for f in found
            for c in range(3)
        ]
    ).reshape(-1, 3)
    assert set(like.argmax(axis=1)) == {0, 1, 2}, "any channel may hold the first one's colours"
    spread = found.std(axis=(1, 2, 3)) / colours.std()
    assert spread.min() < 0.5 and spread.max() > 1.2


def test_training_makes_what_it_needs_and_gives_batches(tmp_path):
    config = read_recipe("mover_refiner:smoke")
    config.data.videos, config.data.cache = SPEC, str(tmp_path)
    config.data.size = (16, 24)
    first, again = (next(training_batches(config.data, batch=4, seed=3)) for _ in range(2))
    assert first["colours"].shape == first["scores"].shape == (4, 16, 24, 3)
    assert first["masks"].shape == (4, 16, 24, 1) and first["masks"].dtype == np.float32
    for key in ("colours", "scores", "masks", "names"):
        np.testing.assert_array_equal(first[key], again[key])
    assert places_of(SPEC, tmp_path).path(2).exists()
