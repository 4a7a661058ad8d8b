"""The data sets that `jaxvos prepare` knows, as TFDS builders: how to make one, how to read it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.annotated import Fbms, YoutubeObjects, YoutubeVos
from data_pipelines.davis import Davis
from data_pipelines.fixations import Fixations
from data_pipelines.flow_builders import Chairs, Things
from data_pipelines.procedural_builder import Procedural
from data_pipelines.saliency import DutOmron, Duts, Msra10k

NAMES: Mapping[str, tuple[type[tfds.core.GeneratorBasedBuilder], str | None, str]] = {
    "davis/2016": (Davis, "2016", "videos"),
    "davis/2017": (Davis, "2017", "videos"),
    "procedural/motion": (Procedural, "motion", "videos"),
    "procedural/salient": (Procedural, "salient", "videos"),
    "youtube_vos": (YoutubeVos, None, "videos"),
    "fbms": (Fbms, None, "videos"),
    "youtube_objects": (YoutubeObjects, None, "videos"),
    "chairs": (Chairs, None, "videos"),
    "things": (Things, None, "videos"),
    "fixations": (Fixations, None, "videos"),
    "duts": (Duts, None, "images"),
    "msra10k": (Msra10k, None, "images"),
    "dut_omron": (DutOmron, None, "images"),
}
"""Name -> builder, its configuration, and what its records are: frames of videos, or images."""


def holds(name: str, kind: str) -> bool:
    """Whether a data set's records are of a kind: "videos" or "images"."""
    return NAMES[name][2] == kind


def builder(name: str, data_dir: str | Path | None = None) -> tfds.core.GeneratorBasedBuilder:
    """The builder of a data set under `data_dir` (by default where TFDS keeps its data sets)."""
    if name not in NAMES:
        raise ValueError(f"No data set is called {name!r}. There are: {', '.join(NAMES)}.")
    cls, config, _ = NAMES[name]
    where = None if data_dir is None else Path(data_dir).expanduser()
    # Its own default format, tfrecord, needs TensorFlow.
    return cls(config=config, data_dir=where, file_format="array_record")


def prepared(
    name: str, split: str, data_dir: str | Path | None = None
) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]:
    """The records of a split of a prepared data set, read when indexed, and its metadata.

    Metadata of videos: {"videos": {split: [[name, frames], ...]}}, in the order of the records,
    which are the frames of one video after the other.
    """
    made = builder(name, data_dir)
    if not made.is_prepared():
        raise FileNotFoundError(
            f"{name} is not prepared in {made.data_dir}. Download it, then run "
            f"`jaxvos prepare {name} --from FOLDER`, or name its folder in place of {name}."
        )
    if split not in made.info.splits:
        raise ValueError(f"{name} has no split {split!r}. It has: {', '.join(made.info.splits)}.")
    return made.as_data_source(split), made.info.metadata
