"""DUTS, MSRA10K and DUT-OMRON as TFDS data sets: pictures and their salient objects.

Records hold the files' own bytes. The folders are those that the archives unpack to.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import pairs

Examples = Iterator[tuple[int, dict[str, Any]]]


class Duts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """DUTS: 10,553 pictures to train on and 5,019 to test on."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, and needs importlib_resources to
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack DUTS-TR.zip and DUTS-TE.zip into one folder; name it."
    allow_partial = False

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, "http://saliencydetection.net/duts/")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        splits = {"train": (10553, pairs.DUTS["train"]), "test": (5019, pairs.DUTS["test"])}
        return _splits(self, Path(dl_manager.manual_dir), splits)

    def _generate_examples(self, found: Sequence[pairs.Pair]) -> Examples:
        return _examples(found)


class Msra10k(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """MSRA10K: 10,000 pictures."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, and needs importlib_resources to
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack MSRA10K_Imgs_GT.zip; name the folder that holds Imgs."
    allow_partial = False

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, "https://mmcheng.net/msra10k/")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        splits = {"train": (10000, (*pairs.MSRA10K, (".", ".")))}
        return _splits(self, Path(dl_manager.manual_dir), splits)

    def _generate_examples(self, found: Sequence[pairs.Pair]) -> Examples:
        return _examples(found)


class DutOmron(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """DUT-OMRON: 5,168 pictures; older archives hold four more, which have no mask."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, and needs importlib_resources to
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack DUT-OMRON-image.zip and its pixel-wise masks; name it."
    allow_partial = False

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, "http://saliencydetection.net/dut-omron/")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        splits = {"train": (5168, pairs.DUT_OMRON)}
        return _splits(self, Path(dl_manager.manual_dir), splits)

    def _generate_examples(self, found: Sequence[pairs.Pair]) -> Examples:
        return _examples(found)


def _info(builder: tfds.core.GeneratorBasedBuilder, homepage: str) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=builder,
        description=type(builder).__doc__,
        features=tfds.features.FeaturesDict(
            {
                "name": tfds.features.Text(),
                "picture": tfds.features.Tensor(shape=(), dtype=np.bytes_),  # JPEG
                "mask": tfds.features.Tensor(shape=(), dtype=np.bytes_),  # PNG
            }
        ),
        homepage=homepage,
        metadata=tfds.core.MetadataDict(),
        disable_shuffling=True,
    )


def _splits(
    builder: Duts | Msra10k | DutOmron,
    root: Path,
    splits: dict[str, tuple[int, Sequence[pairs.Folders]]],
) -> dict[str, Any]:
    """The examples of each of `splits`, {name: (official count, folders)}, all files looked at."""
    partial, found = builder.allow_partial, {}
    for split, (official, layouts) in splits.items():
        if partial and not pairs.has_layout(root, layouts):
            continue
        found[split] = pairs.find_pairs(root, layouts, skip_missing=partial)
        pairs.check_pairs(found[split])
        what = f"pictures of the {split} split of {builder.name}"
        pairs.check_count(what, len(found[split]), official, partial=partial)
    if not found:
        raise FileNotFoundError(f"{root} holds nothing of {builder.name}.")
    builder.info.metadata.update(partial=partial)
    return {split: builder._generate_examples(pictures) for split, pictures in found.items()}


def _examples(found: Sequence[pairs.Pair]) -> Examples:
    for key, (name, picture, mask) in enumerate(found):
        record = {"name": name, "picture": picture.read_bytes(), "mask": mask.read_bytes()}
        yield key, record
