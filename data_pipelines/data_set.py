"""What the TFDS data sets of this project share: records in order, each a row of plain fields."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

Record = dict[str, Any]
VIDEO = (("video", str), ("frame", int), ("picture", bytes))
"""The fields that a frame of a video has in every data set; the picture is an encoded file."""


class DataSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set whose records are numbered, and which is looked at whole before any is written.

    A subclass says what there is (`_found`) and turns each split's part of it into records
    (`_records`).

    Attributes:
        FIELDS: Names and kinds of a record's fields: str, int or, for an encoded file, bytes.
        HOMEPAGE: Where it comes from.
        allow_partial: Whether a data set that is not complete will do; set before it is prepared.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, and needs importlib_resources to
    FIELDS: ClassVar[Sequence[tuple[str, type]]]
    HOMEPAGE: ClassVar[str | None] = None
    allow_partial = False

    @abstractmethod
    def _found(self, root: Path | None) -> Mapping[str, Sequence[Any]]:
        """What each split holds, from the folder that was named; all of it is checked.

        Where records are frames, a split holds videos, with a `name` and `frames`.

        Args:
            root: None if there are no MANUAL_DOWNLOAD_INSTRUCTIONS.

        Raises:
            FileNotFoundError: Something is missing, or a split, and `allow_partial` is False.
            ValueError: Something cannot be used.
        """

    @abstractmethod
    def _records(self, found: Sequence[Any]) -> Iterator[Record]:
        """The records of a split, in order."""

    def _about(self, found: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """What the metadata say besides whether all is there: how many frames each video has."""
        if "video" not in dict(self.FIELDS):
            return {}
        return {
            "videos": {
                split: [[each.name, len(each.frames)] for each in part]
                for split, part in found.items()
            }
        }

    def _info(self) -> tfds.core.DatasetInfo:
        kinds = {
            str: tfds.features.Text(),
            int: tfds.features.Scalar(np.int32),
            bytes: tfds.features.Tensor(shape=(), dtype=np.bytes_),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({name: kinds[kind] for name, kind in self.FIELDS}),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # frames stay in order, one video after the other
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # What is made up has no folder, and TFDS would ask for one.
        root = Path(dl_manager.manual_dir) if self.MANUAL_DOWNLOAD_INSTRUCTIONS else None
        found = self._found(root)
        self.info.metadata.update(self._about(found), partial=self.allow_partial)
        return {split: self._generate_examples(part) for split, part in found.items()}

    def _generate_examples(self, found: Sequence[Any]) -> Iterator[tuple[int, Record]]:
        yield from enumerate(self._records(found))
