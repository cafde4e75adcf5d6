"""mmengine's and matplotlib's files, either complete or absent."""

import io
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend

from visionssm._files import write_atomic


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
