"""An image that cannot be read is counted once, logged by path, and tolerated up to a limit."""

import tarfile

import torch
from mmengine.logging import print_log
from PIL import Image

UNREADABLE = (
    OSError,  # missing, empty, truncated or unidentified files
    SyntaxError,  # Pillow's answer to broken PNG chunks
    ValueError,
    EOFError,
    tarfile.TarError,
    Image.DecompressionBombError,
)


class CorruptImages:
    """The unreadable images of a data set, known to all data loading workers of a process.

    Args:
        slots: how many images to tell apart, at most.
        limit: how many to tolerate; never all of them.
    """

    def __init__(self, slots: int, limit: int) -> None:
        self.limit = limit
        self.seen = torch.zeros(slots, dtype=torch.bool).share_memory_()

    def count(self) -> int:
        """Number of different images noted so far."""
        return int(self.seen.sum())

    def note(self, slot: int, path: str, error: BaseException) -> None:
        """Note that the image of this slot, at this path, could not be read.

        Raises:
            ValueError: that is one more than the limit.
        """
        if not self.seen[slot]:
            self.seen[slot] = True
            message = f"skipped unreadable image {path}: {error!r}"
            print_log(f"{message} ({self.count()} so far)", "current", level=30)
        if self.count() > min(self.limit, len(self.seen) - 1):
            raise ValueError(
                f"{self.count()} images are unreadable (tolerated: max_corrupt={self.limit}, "
                f"and never all); the last is {path}: {error!r}"
            ) from error
