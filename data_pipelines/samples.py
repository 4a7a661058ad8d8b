"""The training pipeline: batches of video pairs and of saliency images, by Grain.

What a record holds depends on the seed and on its position in the one global stream, and on nothing
else: not on the number of workers, threads or hosts. So the state is hardly more than the number of
the next step, and a run may go on with other workers than it was saved with. Worker processes are
spawned: a script that trains needs the usual `if __name__ == "__main__":`.
"""

import json
import logging
import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import grain
import ml_collections
import numpy as np
from absl import flags

from data_pipelines import sources
from data_pipelines.augment import AUGMENTATIONS
from data_pipelines.clips import ORDERS, ImageClips, VideoClips
from data_pipelines.kept_videos import kept
from data_pipelines.motion_clips import MotionClips
from data_pipelines.records import ImageSamples, VideoPairs, listed
from data_pipelines.refinement import RefinementSamples, fill
from data_pipelines.video_records import ImageRecord, VideoRecord

log = logging.getLogger(__name__)

TOLERATED = 0.01
"""The share of corrupt records that a run puts up with."""
JUDGED_AFTER = 1000
"""Records that count as seen from the start: a share of the first few would be a matter of luck."""
PARENT_CHECK_S = 1.0
"""How often a worker looks whether its parent still lives."""


def training_batches(
    data: ml_collections.ConfigDict,
    *,
    batch: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    videos: Sequence[VideoRecord] | None = None,
    images: Sequence[ImageRecord] | None = None,
) -> "Batches":
    """The endless batches that this process trains on, B = batch / process_count records in each.

    Step i is an image step when `image_every` > 0 divides i's number within its epoch, otherwise a
    video step; a whole batch is of one kind:

        pairs
        video step  target, reference       [B, H, W, 3] uint8 RGB
                    target_mask, reference_mask  [B, H, W, 1] float32 in {0, 1}
                    names                   [B] text, "video/frame+reference frame"
        image step  target, reference       [B, H, W, 3] uint8 RGB, the same picture twice
                    mask                    [B, H, W, 1] float32 in {0, 1}
                    names                   [B] text

        clips
        video step  frames                  [B, T, H, W, 3] uint8 RGB
                    masks                   [B, T, H, W, 1] float32 in {0, 1}
                    flow                    [B, T, H, W, 2] float32 pixels, if the recipe wants it
                    names                   [B] text, "video/frame+frame+..."
        image step  frames                  [B, copies, H, W, 3] uint8 RGB
                    mask                    [B, H, W, 1] float32 in {0, 1}
                    flow                    [B, copies, H, W, 2] float32, zero
                    names                   [B] text

        motion
        video step  motion                  [B, T, H/2, W/2, 20] float16: each frame's motion
                                            against the scene, see `data_pipelines.motion_clips`
                    masks                   [B, T, H/2, W/2, 1] float32 in 0..1
                    names                   [B] text

        refinement
        video step  colours, scores         [B, H, W, 3] float16, see `data_pipelines.refinement`
                    masks                   [B, H, W, 1] float32 in 0..1
                    names                   [B] text, "video/frame"

    Every frame of the data is a target (in a clip) once before any is again, in shuffled order. A
    pair's reference is any frame of the same video, drawn a second time if it is the target, then
    kept; which frames a clip has, `data_pipelines.clips.ORDERS` say. Saliency images are drawn at
    random. Frames are augmented; of saliency images those of clips are, those of pairs are only
    squashed, as in the released COSNet.

    Args:
        data: videos, images (what `data_pipelines.sources` reads; images may be ""), image_every
            (0: never), size (H, W), augment (a name of `AUGMENTATIONS`), stretch (of the frames'
            contrast, see `augment.stretch`), workers (processes; 0: none), threads (in each), and,
            if wanted, steps_per_epoch (0 or absent: all frames / batch, rounded up) and sample:
            "pair" (or absent), or "clip", with frames (T), order (a name of `clips.ORDERS`), gap
            (most frames between two that follow each other), copies (T of an image) and flow
            ("" for none, "dis", or "video": what the videos have, exact or from files), or
            "motion", with frames, gap, and cache (the folder that motion is kept in), or
            "refinement", with cache.
        batch: Records per step over all processes.
        seed: Decides shuffling, references and augmentation.
        process_index: Which of the processes this one is ...
        process_count: ... of how many that share the batch.
        videos: Instead of what `data.videos` names.
        images: Instead of what `data.images` names.
    """
    if batch <= 0 or batch % process_count:
        raise ValueError(
            f"A batch of {batch} cannot be shared by {process_count} processes evenly."
        )
    if data.augment not in AUGMENTATIONS:
        known = ", ".join(AUGMENTATIONS)
        raise ValueError(f"No augmentation is called {data.augment!r}. There are: {known}")
    videos = sources.videos(data.videos) if videos is None else videos
    if images is None and data.image_every:
        images = sources.images(data.images) if data.images else ()
    frames = sum(videos.lengths)
    if not frames:
        raise ValueError(f"There is no frame to train on in {data.videos!r}.")
    if data.image_every and not len(images):
        raise ValueError(
            f"image_every is {data.image_every}, but there are no images in {data.images!r}: "
            "name some in data.images, or set data.image_every to 0."
        )
    steps_per_epoch = data.get("steps_per_epoch", 0) or math.ceil(frames / batch)
    shuffle_seed, video_seed, image_seed = map(int, np.random.SeedSequence(seed).generate_state(3))
    of_video, of_image = _records(data, videos, images)
    records = grain.MapDataset.range(frames).shuffle(seed=shuffle_seed).repeat()
    records = records.random_map(of_video, seed=video_seed)
    if data.image_every:
        pictures = grain.MapDataset.range(len(images)).repeat()
        pictures = pictures.random_map(of_image, seed=image_seed)
        schedule = Alternation(batch, data.image_every, steps_per_epoch)
        records = grain.MapDataset.select_from_datasets([records, pictures], schedule)
    return Batches(
        records,
        batch=batch,
        process=(process_index, process_count),
        workers=data.workers,
        threads=data.threads,
        steps_per_epoch=steps_per_epoch,
        size_of_data=frames + (len(images) if data.image_every else 0),
    )


def _records(
    data: ml_collections.ConfigDict,
    videos: Sequence[VideoRecord],
    images: Sequence[ImageRecord] | None,
) -> tuple[Any, Any]:
    """What makes a record of a frame's number, and of an image."""
    ends, size, augment = np.cumsum(videos.lengths), tuple(data.size), AUGMENTATIONS[data.augment]
    sample = data.get("sample", "pair")
    if sample == "pair":
        pairs = VideoPairs(videos, ends, size, augment, data.stretch)
        return pairs, ImageSamples(images, size)
    if sample == "motion":
        places = kept(data.cache, data.videos, size)
        return MotionClips(videos, ends, size, data.frames, data.gap, places), None
    if sample == "refinement":
        return RefinementSamples(ends, size, fill(data.videos, data.cache)), None
    if sample != "clip":
        raise ValueError(
            f"data.sample is {sample!r}; there are 'pair', 'clip', 'motion' and 'refinement'."
        )
    if data.order not in ORDERS:
        raise ValueError(f"data.order is {data.order!r}. There are: {', '.join(ORDERS)}.")
    if data.flow not in ("", "dis", "video"):
        raise ValueError(f"data.flow is {data.flow!r}; there are '', 'dis' and 'video'.")
    if data.flow == "video":
        _check_flow(data, videos)
    for key in ("frames", "gap", "copies"):
        if data[key] < 1:
            raise ValueError(f"data.{key} is {data[key]}; it is at least 1.")
    clips = VideoClips(
        videos, ends, size, augment, data.stretch, data.frames, data.order, data.gap, data.flow
    )
    return clips, ImageClips(images, size, augment, data.copies, data.flow)


def _check_flow(data: ml_collections.ConfigDict, videos: Sequence[VideoRecord]) -> None:
    """Refuses clips whose videos have no flow from each of their frames to the next."""
    shortest = min(videos.lengths)
    if data.order != "consecutive" or data.gap != 1 or shortest < data.frames:
        raise ValueError(
            "data.flow='video' is flow between neighbours: it needs order='consecutive', gap=1 and "
            f"videos of at least {data.frames} frames, not {data.order!r}, {data.gap} and videos "
            f"of {shortest}."
        )
    if getattr(videos[0], "flow", None) is None:
        raise ValueError(
            f"data.flow is 'video', but {videos[0].name} has none: procedural video and stills: "
            "have exact flow, a folder has it with :flow=FOLDER; or take data.flow='dis'."
        )


@dataclass(frozen=True)
class Alternation(grain.transforms.DatasetSelectionMap):
    """Global record index -> (0: videos or 1: images, index in that stream); neither skips any."""

    batch: int
    image_every: int
    steps_per_epoch: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, int]:
        step, slot = divmod(index, self.batch)
        epoch, within = divmod(step, self.steps_per_epoch)
        image_steps_before = epoch * math.ceil(self.steps_per_epoch / self.image_every)
        image_steps_before += math.ceil(within / self.image_every)
        if within % self.image_every == 0:
            return 1, image_steps_before * self.batch + slot
        return 0, (step - image_steps_before) * self.batch + slot


class Batches(grain.DatasetIterator):
    """The batches of one process, in order; what Grain and Orbax save as an iterator.

    Attributes:
        steps_per_epoch: Steps after which every frame was due once (or what the recipe says).
        skipped: Name -> reason of every corrupt record met so far, by this process.
        waited_s: Seconds that `next` took so far: what training waits for its data.
    """

    def __init__(
        self,
        records: grain.MapDataset,
        *,
        batch: int,
        process: tuple[int, int],
        workers: int,
        threads: int,
        steps_per_epoch: int,
        size_of_data: int,
    ) -> None:
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.skipped: dict[str, str] = {}
        self.waited_s = 0.0
        self._records, self._batch, self._process = records, batch, process
        self._workers, self._threads = workers, threads
        self._size_of_data = size_of_data
        self._step = 0
        self._running: grain.DatasetIterator | None = None

    def __next__(self) -> dict[str, np.ndarray]:
        self._assert_not_closed()
        begin = time.perf_counter()
        self.start_prefetch()
        batch = next(self._running)
        self._step += 1
        self._account(batch.pop("skipped"))
        for name in batch:
            if name.endswith(("mask", "masks")) or name == "fixations":
                batch[name] = batch[name].astype(np.float32)
        if "mask" in batch and "target" in batch:
            batch["reference"] = batch["target"]
        self.waited_s += time.perf_counter() - begin
        return batch

    def get_state(self) -> dict[str, Any]:
        """The number of the next step and the corrupt records so far; fit for JSON."""
        return {"step": self._step, "skipped": dict(self.skipped)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `get_state` was called, with as many workers as this iterator has."""
        self._stop()
        self._step, self.skipped = int(state["step"]), dict(state["skipped"])

    def start_prefetch(self) -> None:
        """Starts to read ahead, in worker processes if there are any; `next` does so by itself."""
        if self._running is None:
            self._running = iter(self._from_step(self._step))
            self._running.start_prefetch()

    def close(self) -> None:
        """Ends the worker processes; nothing can be read any more."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _from_step(self, step: int) -> grain.IterDataset:
        """This process's batches from a step on, read and augmented ahead."""
        index, count = self._process
        # Grain's own default reads 500 records ahead in 16 threads.
        reading = grain.ReadOptions(
            num_threads=self._threads, prefetch_buffer_size=2 * self._threads
        )
        workers = grain.multiprocessing.MultiprocessingOptions(
            num_workers=self._workers, per_worker_buffer_size=self._batch // count
        )
        if self._workers and not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks absl before it starts workers.
        # Records go round the workers one by one and are batched here: batches made in the workers
        # would depend on how many there are. Hosts take turns in the augmented stream: taken before
        # augmentation, their shares would be augmented alike.
        records = self._records.slice(slice(step * self._batch + index, None, count))
        records = records.to_iter_dataset(reading).mp_prefetch(
            workers, worker_init_fn=_set_up_worker
        )
        return records.batch(self._batch // count, drop_remainder=True)

    def _account(self, skipped: np.ndarray) -> None:
        """Logs and counts what a batch says was skipped; too much of it ends the run.

        Counted are records, not attempts: one bad frame in a small video is drawn again and again,
        and is still one. A big data set is judged by what was seen of it.
        """
        for name, reason in (entry for record in skipped for entry in json.loads(str(record))):
            if name not in self.skipped:
                self.skipped[name] = reason
                count = len(self.skipped)
                log.warning("Corrupt record %d, replaced: %s (%s)", count, name, reason)
        seen = self._step * self._batch // self._process[1]
        judged = min(self._size_of_data, max(seen, JUDGED_AFTER))
        if len(self.skipped) > max(1, TOLERATED * judged):
            raise ValueError(
                f"{len(self.skipped)} of {judged} records are corrupt, more than {TOLERATED:.0%}; "
                f"repair or remove them:\n{listed(self.skipped)}"
            )


def _set_up_worker(index: int, count: int) -> None:
    """Makes a worker process end with its parent, and use one core."""
    del index, count
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process soon after its parent; a Grain worker by itself outlives a killed one.

    Not by Linux's parent-death signal: that one comes with the end of the *thread* which started
    this process, and Grain may start workers from threads that end.
    """
    parent = multiprocessing.parent_process().pid
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)
