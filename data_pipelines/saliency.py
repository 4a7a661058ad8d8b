"""DUTS, MSRA10K and DUT-OMRON as TFDS data sets: pictures and their salient objects.

Records hold the files' own bytes. The folders are those that the archives unpack to.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from data_pipelines import pairs
from data_pipelines.data_set import DataSet, Record


class Pictures(DataSet, skip_registration=True):
    """What data sets of pictures with one mask each have in common."""

    FIELDS = (("name", str), ("picture", bytes), ("mask", bytes))
    SPLITS: ClassVar[Mapping[str, tuple[int, Sequence[pairs.Folders]]]]
    """Name -> how many pictures the complete split has, and the folders that it may be in."""

    def _found(self, root: Path) -> dict[str, list[pairs.Pair]]:
        partial, found = self.allow_partial, {}
        for split, (official, layouts) in self.SPLITS.items():
            if partial and not pairs.has_layout(root, layouts):
                continue
            found[split] = pairs.find_pairs(root, layouts, skip_missing=partial)
            pairs.check_pairs(found[split])
            what = f"pictures of the {split} split of {self.name}"
            pairs.check_count(what, len(found[split]), official, partial=partial)
        if not found:
            raise FileNotFoundError(f"{root} holds nothing of {self.name}.")
        return found

    def _records(self, found: Sequence[pairs.Pair]) -> Iterator[Record]:
        for name, picture, mask in found:
            yield {"name": name, "picture": picture.read_bytes(), "mask": mask.read_bytes()}


class Duts(Pictures, skip_registration=True):
    """DUTS: 10,553 pictures to train on and 5,019 to test on."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack DUTS-TR.zip and DUTS-TE.zip into one folder; name it."
    HOMEPAGE = "http://saliencydetection.net/duts/"
    SPLITS: ClassVar = {"train": (10553, pairs.DUTS["train"]), "test": (5019, pairs.DUTS["test"])}


class Msra10k(Pictures, skip_registration=True):
    """MSRA10K: 10,000 pictures."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack MSRA10K_Imgs_GT.zip; name the folder that holds Imgs."
    HOMEPAGE = "https://mmcheng.net/msra10k/"
    SPLITS: ClassVar = {"train": (10000, (*pairs.MSRA10K, (".", ".")))}


class DutOmron(Pictures, skip_registration=True):
    """DUT-OMRON: 5,168 pictures; older archives hold four more, which have no mask."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack DUT-OMRON-image.zip and its pixel-wise masks; name it."
    HOMEPAGE = "http://saliencydetection.net/dut-omron/"
    SPLITS: ClassVar = {"train": (5168, pairs.DUT_OMRON)}
