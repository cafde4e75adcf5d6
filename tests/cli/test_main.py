"""The `visionssm` command: help, version, and a missing extra."""

import pytest

from visionssm import __version__
from visionssm.cli import main as cli


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"visionssm {__version__}\n"


def test_no_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([])
    assert exit_.value.code == 2


class CommandNeeding:
    """A subcommand whose run imports a module that is not there."""

    def __init__(self, module):
        self.module = module

    def add_parser(self, subparsers):
        subparsers.add_parser("stub")

    def run(self, args):
        raise ModuleNotFoundError(f"No module named {self.module!r}", name=self.module)


@pytest.mark.parametrize(
    ("module", "extra"), [("mmengine.runner", "train"), ("mmdet", "openmmlab"), ("onnx", "export")]
)
def test_missing_extra_is_one_sentence_with_the_pip_command(monkeypatch, capsys, module, extra):
    monkeypatch.setitem(cli.COMMANDS, "stub", CommandNeeding(module))
    assert cli.main(["stub"]) == 2
    assert f"pip install 'visionssm[{extra}]'" in capsys.readouterr().err


def test_bad_input_is_one_message(capsys):
    assert cli.main(["info", "no_such_model"]) == 2
    assert capsys.readouterr().err.startswith("visionssm info: no model 'no_such_model'")


def test_a_missing_module_of_no_extra_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "stub", CommandNeeding("visionssm.no_such_file"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["stub"])
