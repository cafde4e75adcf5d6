"""webdataset shards through timm's reader."""

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mmengine.dist import get_world_size
from mmengine.registry import DATASETS
from timm.data import create_dataset, create_transform
from timm.data.readers import reader_wds
from torch.utils.data import IterableDataset, get_worker_info

from .corrupt import UNREADABLE, CorruptImages
from .randomness import derive_seed, seed_generators

PATH_SLOTS = 1 << 20  # corrupt samples are told apart by a hash of their path


@DATASETS.register_module()
class ImageStream(IterableDataset):
    """Samples of .tar shards in webdataset format; items as those of `ClassificationDataset`.

    The dataloader config takes `sampler=None` and the `num_workers` given here; without
    `persistent_workers` a resumed run repeats the order of an uninterrupted one. A sample that
    cannot be decoded is logged by its path `<shard>/<key>`, counted once and left out.

    Args:
        root: folder of the shards, or a URL prefix.
        split: name in the folder's `_info.json`, or shards and their sample count, such as
            `train-{0000..0146}.tar|1281167`.
        transform: arguments of `timm.data.create_transform`.
        num_classes: number of labels.
        batch_size: of the dataloader; in training each worker's share is rounded up to it.
        num_workers: of the dataloader, at least 1.
        is_training: shuffle shards and samples anew every epoch.
        max_corrupt: how many undecodable samples to tolerate.

    Raises:
        ValueError: no worker, or evaluation on several processes, whose shares would differ; or
            too many samples are undecodable.
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
        max_corrupt: int = 100,
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
        self.corrupt = CorruptImages(PATH_SLOTS, max_corrupt)

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        if worker is None:
            raise ValueError("num_workers=0 in the dataloader: a stream is read by its workers")
        self._watch_decoding()
        for number, (image, (target, path)) in enumerate(self.stream):
            seed_generators(derive_seed(worker.seed, number))
            yield {"inputs": self.transform(image), "targets": target, "paths": path}

    def _watch_decoding(self) -> None:
        """Put ourselves around the decoding stage of timm's pipeline, which swallows all errors."""
        reader: Any = self.stream.reader
        if reader.ds is None:  # else a persistent worker, which has done this
            reader._lazy_init()
            _replace_decoder(reader, self._decode)

    def _decode(self, decode: Any, sample: dict) -> dict | None:
        """timm's decoded sample, its target paired with its path; None if it is unreadable."""
        path = f"{sample['__url__']}/{sample['__key__']}"
        try:
            decoded = decode(sample)
        except reader_wds.WdsTargetKeyError:  # wrong settings, not a wrong image
            raise
        except UNREADABLE as error:
            self.corrupt.note(zlib.crc32(path.encode()) % PATH_SLOTS, path, error)
            return None
        return None if decoded is None else {**decoded, "target": (decoded["target"], path)}

    def count_corrupt(self) -> int:
        """Number of different samples found undecodable so far, by all workers of this process."""
        return self.corrupt.count()

    def __len__(self) -> int:
        return len(self.stream)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the shards; workers see it through shared memory."""
        self.stream.set_epoch(epoch)


def _replace_decoder(reader: Any, decode: Callable[[Any, dict], dict | None]) -> None:
    """Have `decode(timm's decoder, sample)` decode the samples; what it raises ends the stream."""
    stages = reader.ds.pipeline
    (place,) = (i for i, stage in enumerate(stages) if _decoder(stage) is not None)
    stages[place] = reader_wds.wds.map(partial(decode, _decoder(stages[place])))


def _decoder(stage: Any) -> Callable[[dict], dict | None] | None:
    """The function of timm's decoding stage; None for other stages."""
    function = next(iter(getattr(stage, "args", ())), None)
    return function if getattr(function, "func", None) is reader_wds._decode else None
