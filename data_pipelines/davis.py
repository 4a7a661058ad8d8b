"""DAVIS 2016 and 2017 as a TFDS data set: one record a frame, the files' own bytes.

The folder is the one that the downloaded archives unpack to: JPEGImages/480p, Annotations/480p and
ImageSets. Whatever is missing, broken or of another size is said before anything is written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.data_set import VIDEO, DataSet, Record
from data_pipelines.pairs import Pair, check_count, check_pairs
from jaxvos.davis_layout import SequenceFiles, list_sequences, some


@dataclass
class DavisConfig(tfds.core.BuilderConfig):
    """One year's lists of sequences.

    Attributes:
        counts: Split -> (sequences, frames) of the complete data set.
    """

    counts: dict[str, tuple[int, int]] | None = None


# Summed from the official metadata of the sequences.
COUNTS = {
    "2016": {"train": (30, 2079), "val": (20, 1376)},
    "2017": {"train": (60, 4209), "val": (30, 1999)},
}


class Davis(DataSet, skip_registration=True):
    """DAVIS, the videos of its train and val lists."""

    FIELDS = (*VIDEO, ("mask", bytes))
    HOMEPAGE = "https://davischallenge.org"
    BUILDER_CONFIGS = tuple(
        DavisConfig(name=year, description=f"The lists of {year}.", counts=counts)
        for year, counts in COUNTS.items()
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack the DAVIS archive (480p) and name the folder that holds JPEGImages."
    )

    def _found(self, root: Path) -> dict[str, list[SequenceFiles]]:
        splits = {split: self._sequences(root, split) for split in self.builder_config.counts}
        splits = {split: sequences for split, sequences in splits.items() if sequences}
        if not splits:
            raise FileNotFoundError(
                f"{root} has no list ImageSets/{self.builder_config.name}/train.txt or val.txt."
            )
        for split, sequences in splits.items():
            self._check(split, sequences)
        return splits

    def _sequences(self, root: Path, split: str) -> list[SequenceFiles]:
        """The sequences of a split; none if it has no list and that will do."""
        year = self.builder_config.name
        lists = [root / "ImageSets" / folder / f"{split}.txt" for folder in (year, "480p")]
        if self.allow_partial and not any(path.is_file() for path in lists):
            return []
        return list_sequences(root, split=split, year=year)

    def _check(self, split: str, sequences: list[SequenceFiles]) -> None:
        frames = [
            Pair(sequence.name, frame, mask)
            for sequence in sequences
            for frame, mask in zip(sequence.frames, sequence.masks, strict=True)
        ]
        bare = [str(pair.picture) for pair in frames if pair.mask is None]
        if bare:
            raise ValueError(f"{len(bare)} frames have no mask: {some(bare)}.")
        check_pairs(frames)
        official = self.builder_config.counts[split]
        where = f"of the {split} list of DAVIS {self.builder_config.name}"
        check_count(f"sequences {where}", len(sequences), official[0], partial=self.allow_partial)
        check_count(f"frames {where}", len(frames), official[1], partial=self.allow_partial)

    def _records(self, found: Sequence[SequenceFiles]) -> Iterator[Record]:
        for video, frames, masks in found:
            for number, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
                files = {"picture": frame.read_bytes(), "mask": mask.read_bytes()}
                yield {"video": video, "frame": number} | files
