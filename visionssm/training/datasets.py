"""Images with one label each: the common dataset, and image folders or tar files read by timm."""

from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from PIL import Image
from timm.data import create_dataset, create_transform
from torch.utils.data import Dataset

from .corrupt import UNREADABLE, CorruptImages
from .randomness import seed_generators
from .samplers import SeededIndex


class ClassificationDataset(Dataset):
    """Map-style dataset; a subclass reads image `index` and says where it came from.

    An image that cannot be read is logged by path, counted once, and replaced by the next readable
    one. The count is shared by all data loading workers of a process. Item: a dict with
    `inputs` float tensor (3, h, w), `targets` int, `paths` str.

    Args:
        length: number of images.
        classes: their names, in the order of the labels.
        transform: arguments of `timm.data.create_transform`.
        max_corrupt: how many unreadable images to tolerate.
    """

    def __init__(
        self, length: int, classes: list[str], transform: dict, max_corrupt: int = 100
    ) -> None:
        self.metainfo = {"classes": tuple(classes)}
        self.transform_args = dict(transform)
        self.transform = create_transform(**transform)
        self.length = length
        self.corrupt = CorruptImages(length, max_corrupt)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Return the decoded RGB image and its label; raise one of `UNREADABLE` if it is broken."""
        raise NotImplementedError

    def path(self, index: int) -> str:
        """Where image `index` comes from, for messages."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: int | SeededIndex) -> dict:
        if isinstance(key, SeededIndex):
            seed_generators(key.seed)
        index, image, target = self._load_readable(key)
        return {"inputs": self.transform(image), "targets": target, "paths": self.path(index)}

    def _load_readable(self, index: int) -> tuple[int, Image.Image, int]:
        while True:
            try:
                return index, *self.load(index)
            except UNREADABLE as error:
                self.corrupt.note(index, self.path(index), error)
            index = (index + 1) % len(self)

    def count_corrupt(self) -> int:
        """Number of different images found unreadable so far, by all workers of this process."""
        return self.corrupt.count()


@DATASETS.register_module()
class ImageFiles(ClassificationDataset):
    """A folder with one sub-folder a class, or a .tar file of one, through timm's readers.

    Args:
        root: the folder or tar file; a sub-folder named after `split` is used if there is one.
        split: `train`, `val`, ...
        transform: arguments of `timm.data.create_transform`.
        class_map: dict from class name to label; None numbers the sorted names. Classes that share
            a label are one, under both names: `cat/dog`.
        max_corrupt: how many unreadable images to tolerate.

    Raises:
        ValueError: `root` does not exist, the labels are not 0, 1, 2 and so on, or too many images
            are unreadable.
    """

    def __init__(
        self,
        root: str,
        split: str,
        transform: dict,
        class_map: dict | None = None,
        max_corrupt: int = 100,
    ) -> None:
        if not Path(root).exists():
            raise ValueError(f"root={root!r}: expected an existing image folder or .tar file")
        self.files: Any = create_dataset("", root, split=split, class_map=class_map or {})
        reader = self.files.reader
        labels = getattr(reader, "class_to_idx", None) or reader.class_name_to_idx
        names: dict[int, list[str]] = {}
        for name, label in labels.items():
            names.setdefault(label, []).append(name)
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"class_map: expected labels 0, 1, 2 and so on, got {sorted(names)}")
        classes = ["/".join(names[label]) for label in sorted(names)]
        super().__init__(len(self.files), classes, transform, max_corrupt)

    def load(self, index: int) -> tuple[Image.Image, int]:
        file, target = self.files.reader[index]
        with file:
            return Image.open(file).convert("RGB"), int(target)

    def path(self, index: int) -> str:
        return self.files.filename(index, absolute=True)
