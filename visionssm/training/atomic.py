"""Files that are either complete or absent, whatever kills the process while it writes."""

import io
import os
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write beside `path`, flush to disk, then rename over it.

    A reader sees the old content or the new, never a mixture. A process killed in between leaves
    `<path>.tmp`, which the next write replaces.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # makes the rename itself durable
    finally:
        os.close(directory)


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a matplotlib figure as a PNG that is either complete or absent."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    write_atomic(path, png.getvalue())


@register_backend("atomic")
class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written atomically: `backend_args=dict(backend='atomic')`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_atomic(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        write_atomic(filepath, obj.encode(encoding))
