"""webdataset shards through timm's reader."""

from collections.abc import Iterator

from mmengine.dist import get_world_size
from mmengine.registry import DATASETS
from timm.data import create_dataset, create_transform
from torch.utils.data import IterableDataset, get_worker_info

from .randomness import derive_seed, seed_generators


@DATASETS.register_module()
class ImageStream(IterableDataset):
    """Samples of .tar shards in webdataset format; items as those of `ClassificationDataset`.

    The dataloader config takes `sampler=None` and the `num_workers` given here; without
    `persistent_workers` a resumed run repeats the order of an uninterrupted one. Items
    have no `paths`: timm's reader does not tell. It logs and leaves out what it cannot decode.

    Args:
        root: folder of the shards, or a URL prefix.
        split: name in the folder's `_info.json`, or shards and their sample count, such as
            `train-{0000..0146}.tar|1281167`.
        transform: arguments of `timm.data.create_transform`.
        num_classes: number of labels.
        batch_size: of the dataloader; in training each worker's share is rounded up to it.
        num_workers: of the dataloader, at least 1.
        is_training: shuffle shards and samples anew every epoch.

    Raises:
        ValueError: no worker, or evaluation on several processes, whose shares would differ.
    """

    def __init__(
        self,
        root: str,
        split: str,
        transform: dict,
        num_classes: int,
        batch_size: int,
        num_workers: int,
        is_training: bool,
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers={num_workers}: a stream needs at least 1")
        if not is_training and get_world_size() > 1:
            raise ValueError("evaluate streams on one process, or read the images with ImageFiles")
        self.metainfo = {"classes": tuple(map(str, range(num_classes)))}
        self.transform_args = dict(transform)
        self.transform = create_transform(**transform)
        self.stream = create_dataset(
            "wds/", root, split=split, is_training=is_training, batch_size=batch_size
        )
        self.stream.set_loader_cfg(num_workers=num_workers)

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        if worker is None:
            raise ValueError("num_workers=0 in the dataloader: a stream is read by its workers")
        for number, (image, target) in enumerate(self.stream):
            seed_generators(derive_seed(worker.seed, number))
            yield {"inputs": self.transform(image), "targets": target}

    def __len__(self) -> int:
        return len(self.stream)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the shards; workers see it through shared memory."""
        self.stream.set_epoch(epoch)
