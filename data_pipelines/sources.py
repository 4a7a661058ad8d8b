"""What training reads: videos and pictures with masks, named by a short text.

    FOLDER                              laid out like DAVIS (videos), or pictures and masks (images)
    FOLDER:split=val,without=libby      with options: split= (all: whatever the lists say),
                                        year=2017, and once for each video only= or without=
    procedural                          made-up video, rendered when it is asked for
    procedural-salient:clips=64,frames=8,seed=3,height=96,width=160
    procedural-wild, procedural-outdoors, procedural-waters     nearer to films of the real world
    procedural-wild:trail=1,shadow=0    with more or less of something (`scenes.SHARES`)
    procedural-wild:distractors=0       with so many at most (`scenes.COUNTS`)
    davis/2016                          a data set that `jaxvos prepare` has prepared
    msra10k+dut_omron                   several, one after the other
    stills:duts, stills:FOLDER          videos made of pictures, one of each: object and ground move
    stills:msra10k:frames=3,seed=1      (`data_pipelines.synthesis`); frames= is 2 and seed= 0 by
                                        default, other options are the pictures' own
    FOLDER:flow=FLOWS                   with flow from files FLOWS/VIDEO/FRAME.flo, .npy or .png
    chairs:FOLDER, things:FOLDER        FlyingChairs, FlyingThings3D: frames with flow, no masks
                                        (`data_pipelines.flow_sets`)
    three_folders:FOLDER                RGB, GT and perhaps FLOW, as DPA and TMO are published with:
                                        flow out of pictures (`data_pipelines.rgb_gt_flow`), none
                                        where there is no FLOW; split= is a folder's name or its end
    things                              prepared FlyingThings3D: flow, no masks
    fixations                           a prepared data set of videos with eye movements
                                        (`data_pipelines.fixations`)

Everything here is cheap to make and to send to worker processes: frames stay encoded until they are
indexed.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import flow_sets, pairs, prepared, rgb_gt_flow
from data_pipelines.clip_cache import cached_clip
from data_pipelines.encoded import Lazy, mask_file, picture_file
from data_pipelines.procedural import MOTION, OUTDOORS, SALIENT, SEEDS, WATERS, WILD, World, clip
from data_pipelines.scenes import COUNTS, SHARES
from data_pipelines.specs import Options, options_of, parts_of
from data_pipelines.synthesis import MovingStill, moving_still
from data_pipelines.video_records import ImageRecord, VideoRecord, Videos, chosen
from jaxvos.davis_layout import SequenceFiles, list_sequences, some
from jaxvos.flow.fields import flow_of_frame
from jaxvos.flow.files import checked, read_flow

WORLDS: Mapping[str, World] = {
    "procedural": MOTION,
    "procedural-salient": SALIENT,
    "procedural-wild": WILD,
    "procedural-outdoors": OUTDOORS,
    "procedural-waters": WATERS,
}
STILLS = "stills:"
FOLDERS: Mapping[str, Callable[..., Videos]] = {
    "chairs:": flow_sets.chairs,
    "things:": flow_sets.things,
    "three_folders:": rgb_gt_flow.videos,
}
"""What stands before a folder that is not laid out like DAVIS -> (folder, split=) -> its videos."""


def videos(spec: str, *, split: str = "train", data_dir: str | Path | None = None) -> Videos:
    """The videos that `spec` names (see above), none of them opened yet.

    Args:
        spec: FOLDER, procedural, the name of a prepared data set, or stills: and any of these that
            has pictures; several are joined by "+".
        split: Which part of it, unless the text itself says split=.
        data_dir: Where prepared data sets are; by default where TFDS puts them.
    """
    parts = [_videos(part, split, data_dir) for part in parts_of(spec)]
    if len(parts) == 1:
        return parts[0]
    if any(options_of(part)[0] == prepared.FIXATIONS for part in parts_of(spec)):
        raise ValueError(
            f"{spec!r} joins videos with eye movements and others: a batch is of one kind. Take "
            "one as data.videos, and masks from data.images."
        )
    lengths = tuple(length for part in parts for length in part.lengths)
    return Videos(partial(_joined, tuple(parts), _ends(parts)), len(lengths), lengths)


def images(
    spec: str, *, split: str = "train", data_dir: str | Path | None = None
) -> Lazy[ImageRecord]:
    """The pictures that `spec` names, none of them read yet; arguments as for `videos`."""
    parts = [_images(part, split, data_dir) for part in parts_of(spec)]
    if len(parts) == 1:
        return parts[0]
    ends = _ends(parts)
    return Lazy(partial(_joined, tuple(parts), ends), ends[-1])


def _videos(spec: str, split: str, data_dir: str | Path | None) -> Videos:
    """The videos of a single source."""
    name, options = options_of(spec)
    if name.startswith(tuple(FOLDERS)):
        kind, _, folder = name.partition(":")
        options.check(name, ("split",))
        read = FOLDERS[f"{kind}:"]
        return read(Path(folder).expanduser(), split=options.one("split", split))
    if name.startswith(STILLS):
        return _stills(name.removeprefix(STILLS), options, split, data_dir)
    if name in WORLDS:
        return _procedural_videos(name, options, split)
    if Path(name).expanduser().is_dir():
        return _folder_videos(name, options, split)
    return prepared.videos(_known(name, "videos"), options, split, data_dir)


def _images(spec: str, split: str, data_dir: str | Path | None) -> Lazy[ImageRecord]:
    """The pictures of a single source."""
    return _images_of(*options_of(spec), split, data_dir)


def _images_of(
    name: str, options: Options, split: str, data_dir: str | Path | None
) -> Lazy[ImageRecord]:
    if name in WORLDS:
        return _procedural_images(name, options, split)
    if Path(name).expanduser().is_dir():
        return _folder_images(name, options, split)
    return prepared.images(_known(name, "images"), options, split, data_dir)


def _known(name: str, kind: str) -> str:
    """The name of a data set that can be prepared and holds "videos" or "images"."""
    from data_pipelines import builders  # TFDS takes its time to import

    names = [known for known in builders.NAMES if builders.holds(known, kind)]
    name = name.lower() if name.lower() in names else name
    if name not in names:
        close = difflib.get_close_matches(name, [*WORLDS, *names], 1)
        close = [STILLS + name] if kind == "videos" and name in builders.NAMES else close
        hint = f" Did you mean {close[0]}?" if close else ""
        layout = "JPEGImages/ and Annotations/" if kind == "videos" else "images/ and masks/"
        raise ValueError(
            f"There are no {kind} called {name!r}.{hint} It may be a folder with {layout}, "
            f"{' or '.join(WORLDS)} (:clips=64,frames=8,seed=0,height=256,width=448), "
            f"{'stills: before anything that has pictures, ' if kind == 'videos' else ''}"
            f"or a data set that `jaxvos prepare` has prepared: {', '.join(names)}."
        )
    return name


def _folder_videos(folder: str, options: Options, split: str) -> Videos:
    options.check(folder, ("split", "year", "only", "without", "flow"))
    found = list_sequences(
        Path(folder).expanduser(),
        split=None if options.one("split", split) == "all" else options.one("split", split),
        names=options.all("only") or None,
        year=options.one("year", "2016"),
    )
    kept = chosen([sequence.name for sequence in found], options, folder)
    sequences = tuple(found[number] for number in kept)
    bare = [
        str(frame)
        for sequence in sequences
        for frame, mask in zip(sequence.frames, sequence.masks, strict=True)
        if mask is None
    ]
    if bare:
        raise ValueError(f"{len(bare)} frames of {folder} have no mask: {some(bare)}.")
    lengths = tuple(len(sequence.frames) for sequence in sequences)
    flows = options.one("flow", "")
    fields = tuple(_flow_files(Path(flows), sequence) for sequence in sequences) if flows else ()
    return Videos(partial(_folder_video, sequences, fields), len(sequences), lengths)


def _folder_video(
    sequences: Sequence[SequenceFiles], fields: Sequence[tuple[Path, ...]], number: int
) -> VideoRecord:
    name, frames, masks = sequences[number]
    return VideoRecord(
        name,
        Lazy(partial(picture_file, frames), len(frames)),
        Lazy(partial(mask_file, masks), len(masks)),
        Lazy(partial(_flow_file, fields[number]), len(frames) - 1) if fields else None,
    )


def _flow_files(flows: Path, sequence: SequenceFiles) -> tuple[Path, ...]:
    """The flow files of all frames of a sequence but the last."""
    folder = flows.expanduser() / sequence.name
    found = {frame.stem: flow_of_frame(folder, frame.stem) for frame in sequence.frames[:-1]}
    missing = [name for name, file in found.items() if file is None]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no flow of {len(missing)} of the first {len(found)} frames: "
            f"{some(missing)} (`jaxvos flow` makes it)."
        )
    return tuple(found.values())


def _flow_file(files: Sequence[Path], t: int) -> np.ndarray:
    return checked(read_flow(files[t]), files[t])


def _folder_images(folder: str, options: Options, split: str) -> Lazy[ImageRecord]:
    options.check(folder, ("split",))
    duts = pairs.DUTS.get(options.one("split", split), ())
    layouts = (*duts, *pairs.MSRA10K, *pairs.DUT_OMRON, *pairs.PLAIN)
    found = tuple(pairs.find_pairs(Path(folder).expanduser(), layouts))
    return Lazy(partial(_folder_image, found), len(found))


def _folder_image(found: Sequence[pairs.Pair], number: int) -> ImageRecord:
    name, picture, mask = found[number]
    return ImageRecord(name, picture_file((picture,), 0), mask_file((mask,), 0))


def _procedural_videos(name: str, options: Options, split: str) -> Videos:
    clips, length, render = _procedural(name, options, split, length=8)
    return Videos(partial(_procedural_video, render, length), clips, (length,) * clips)


def _procedural_video(render: partial, length: int, number: int) -> VideoRecord:
    whole = _Once(partial(clip, number, **render.keywords))  # the kept ones have no flow
    return VideoRecord(
        f"clip-{number:05d}",
        Lazy(partial(_procedural_frame, render, number, 0), length),
        Lazy(partial(_procedural_frame, render, number, 1), length),
        Lazy(partial(_part, whole, "flow"), length - 1),
    )


def _procedural_images(name: str, options: Options, split: str) -> Lazy[ImageRecord]:
    clips, length, render = _procedural(name, options, split, length=1)
    return Lazy(partial(_procedural_image, render, length), clips * length)


def _procedural_image(render: Callable[[int], Any], length: int, number: int) -> ImageRecord:
    index, t = divmod(number, length)
    frames, masks = render(index)
    return ImageRecord(f"clip-{index:05d}/{t:05d}", frames[t], masks[t])


def _procedural_frame(render: Callable[[int], Any], index: int, which: int, t: int) -> np.ndarray:
    return render(index)[which][t]


def _procedural(name: str, options: Options, split: str, length: int) -> tuple[int, int, partial]:
    """How many clips, how many frames in each, and index -> (frames, labels) of one."""
    default = {"clips": 64, "frames": length, "seed": SEEDS.get(split), "height": 256, "width": 448}
    options.check(name, (*default, *SHARES, *COUNTS))
    if default["seed"] is None and "seed" not in options.given:
        raise ValueError(f"{name} has no split {split!r}, only {', '.join(SEEDS)}: give seed=.")
    chosen = {key: options.whole(key, value, int(key != "seed")) for key, value in default.items()}
    render = partial(
        cached_clip,
        seed=chosen["seed"],
        frames=chosen["frames"],
        size=(chosen["height"], chosen["width"]),
        world=_world(WORLDS[name], options),
    )
    return chosen["clips"], chosen["frames"], render


def _world(world: World, options: Options) -> World:
    """The world with what the options have more or less of."""
    changed: dict[str, Any] = {key: options.share(key, getattr(world, key)) for key in SHARES}
    for key in COUNTS:
        fewest, most = getattr(world, key)
        most = options.whole(key, most, least=0)
        changed[key] = min(fewest, most), most
    return replace(world, **changed)


def _stills(name: str, options: Options, split: str, data_dir: str | Path | None) -> Videos:
    """The videos made of the pictures `name`; all options but two are theirs."""
    ours = {key: values for key, values in options.given.items() if key in ("frames", "seed")}
    theirs = {key: values for key, values in options.given.items() if key not in ours}
    Options(ours).check(STILLS + name, ("frames", "seed"))
    length, seed = Options(ours).whole("frames", 2), Options(ours).whole("seed", 0, least=0)
    pictures = _images_of(name, Options(theirs), split, data_dir)
    count = len(pictures)
    return Videos(partial(_still_video, pictures, length, seed), count, (length,) * count)


def _still_video(
    pictures: Sequence[ImageRecord], length: int, seed: int, number: int
) -> VideoRecord:
    image = pictures[number]
    whole = _Once(partial(_moving, image, length, (seed, number)))
    frames, masks = (Lazy(partial(_part, whole, key), length) for key in ("frames", "masks"))
    return VideoRecord(image.name, frames, masks, Lazy(partial(_part, whole, "flow"), length - 1))


def _moving(image: ImageRecord, length: int, seed: tuple[int, int]) -> MovingStill:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    return moving_still(image.picture, image.mask, rng, frames=length)


@dataclass
class _Once:
    """A clip that is made when something of it is asked for first, and then kept."""

    make: Callable[[], Any]
    made: Any = None

    def __call__(self) -> Any:
        if self.made is None:
            self.made = self.make()
        return self.made


def _part(whole: _Once, key: str, t: int) -> np.ndarray:
    return getattr(whole(), key)[t]


def _ends(parts: Sequence[Sequence[Any]]) -> tuple[int, ...]:
    return tuple(accumulate(len(part) for part in parts))


def _joined(parts: Sequence[Sequence[Any]], ends: Sequence[int], number: int) -> Any:
    which = int(np.searchsorted(ends, number, side="right"))
    return parts[which][number - (ends[which - 1] if which else 0)]
