"""Entry point of the `visionssm` command: one module a subcommand.

A subcommand module has `add_parser(subparsers)`, which names its arguments, and `run(args) -> int`,
which returns the exit status. What only an extra installs is imported inside `run`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..version import __version__
from . import convert, doctor, info, list_models, predict, scans

COMMANDS = {
    "list": list_models,
    "info": info,
    "doctor": doctor,
    "scans": scans,
    "convert": convert,
    "predict": predict,
}
EXTRA_OF_MODULE = {
    "cv2": "train",
    "matplotlib": "train",
    "mmcv": "openmmlab",
    "mmdet": "openmmlab",
    "mmengine": "train",
    "mmseg": "openmmlab",
    "onnx": "export",
    "onnxscript": "export",
    "sklearn": "train",
    "tensorboard": "train",
    "tqdm": "train",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `visionssm COMMAND ...`; `argv` without the program's name, None for `sys.argv`.

    Returns:
        The exit status: 0 when all went well, 1 when the command found a fault, 2 when it could not
        run, with one message on stderr: what is wrong with the input (the ValueErrors that all our
        code raises for that), which file cannot be read or written, or the pip command for the
        extra that is missing.
    """
    parser = argparse.ArgumentParser(
        prog="visionssm", description="Vision state-space models: inspect, check, convert, use."
    )
    parser.add_argument("--version", action="version", version=f"visionssm {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS.values():
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        return COMMANDS[args.command].run(args)
    except (OSError, ValueError) as error:
        print(f"visionssm {args.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRA_OF_MODULE:
            raise
        print(
            f"visionssm {args.command} needs the module {module!r}; install it with: "
            f"pip install 'visionssm[{EXTRA_OF_MODULE[module]}]'",
            file=sys.stderr,
        )
        return 2
