"""A file is whole or absent, however the process that writes it ends."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.fileio import get_file_backend

from visionssm.training.atomic import AtomicLocalBackend, write_atomic


def test_content_replaces_content_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


def test_a_leftover_of_a_killed_write_does_no_harm(tmp_path):
    (tmp_path / "file.tmp").write_bytes(b"half")
    write_atomic(tmp_path / "file", b"whole")
    assert os.listdir(tmp_path) == ["file"]


def test_mmengine_finds_the_backend_by_name(tmp_path):
    backend = get_file_backend(str(tmp_path), backend_args={"backend": "atomic"})
    assert isinstance(backend, AtomicLocalBackend)
    backend.put_text("text", tmp_path / "a")
    backend.put(b"bytes", tmp_path / "b")
    assert (tmp_path / "a").read_text() == "text"
    assert (tmp_path / "b").read_bytes() == b"bytes"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_before_the_rename_leaves_the_old_content(tmp_path, monkeypatch, step):
    write_atomic(tmp_path / "file", b"old")

    def fail(*args):
        raise OSError("disk gone")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk gone"):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


WRITERS = """
import itertools, os, sys, torch
from mmengine.runner import save_checkpoint
import visionssm.training.atomic

def write():
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # mmengine warns there
    for number in itertools.count(1):
        weights = torch.full((500_000,), float(number))
        save_checkpoint({"weights": weights}, sys.argv[1], backend_args={"backend": "atomic"})

for _ in sys.stdin:
    writer = os.fork() or write()
    print(writer, flush=True)
    print(os.waitpid(writer, 0)[1], flush=True)
"""


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """Three writers that do nothing but save 2 MB checkpoints are killed at random moments."""
    path = tmp_path / "last.pth"
    moments = random.Random(0)
    command = [sys.executable, "-c", WRITERS, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as writers:
        for _ in range(3):
            print("write", file=writers.stdin, flush=True)
            writer = int(writers.stdout.readline())
            started = time.monotonic()
            while not path.exists() and time.monotonic() - started < 60:
                time.sleep(0.001)
            time.sleep(moments.uniform(0.05, 0.3))
            os.kill(writer, signal.SIGKILL)
            assert int(writers.stdout.readline()) == signal.SIGKILL
            weights = torch.load(path, weights_only=True)["weights"]
            assert weights.shape == (500_000,)
            assert (weights == weights[0]).all()
