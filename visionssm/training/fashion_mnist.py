"""Fashion-MNIST: 70,000 grey 28 x 28 pictures of ten kinds of clothes, through torchvision."""

from mmengine.registry import DATASETS
from PIL import Image
from torchvision import datasets

from .datasets import ClassificationDataset

SPLITS = ("train", "val", "test")
NUM_VAL = 5000  # the last ones of the 60,000 that are published for training


@DATASETS.register_module()
class FashionMNIST(ClassificationDataset):
    """Xiao et al., arXiv 1708.07747.

    Args:
        root: folder with ``FashionMNIST/raw/train-images-idx3-ubyte`` and so on, as
            ``torchvision.datasets.FashionMNIST(root, download=True)`` leaves it.
        split: `train` (55,000 pictures), `val` (5,000, held out of it) or `test` (10,000).
        transform: arguments of `timm.data.create_transform`.

    Raises:
        ValueError: unknown split, or the files are not there.
    """

    def __init__(self, root: str, split: str, transform: dict) -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: expected one of {SPLITS}")
        try:
            files = datasets.FashionMNIST(root, train=split != "test")
        except RuntimeError as error:
            raise ValueError(f"root={root!r}: expected Fashion-MNIST's files: {error}") from error
        held_out = len(files.targets) - NUM_VAL
        begin, end = {"train": (0, held_out), "val": (held_out, None), "test": (0, None)}[split]
        self.pixels = files.data[begin:end].numpy()
        self.labels = files.targets[begin:end].tolist()
        self.file = f"{files.raw_folder}/{'t10k' if split == 'test' else 'train'}"
        self.first = begin
        super().__init__(len(self.labels), files.classes, transform)

    def load(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]).convert("RGB"), self.labels[index]

    def path(self, index: int) -> str:
        return f"{self.file}#{self.first + index}"
