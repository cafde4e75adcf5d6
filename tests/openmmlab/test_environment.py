"""Packages that are missing or clash are named at import, with the command that mends it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.openmmlab import cases  # noqa: F401  skips without the packages
from visionssm.openmmlab.environment import check_packages


@pytest.mark.parametrize(("missing", "message"), [
    (["mmcv"], "needs mmcv: pip install --no-build-isolation 'visionssm[openmmlab]'"),
    (["mmdet", "mmseg"], "needs mmdet or mmseg: pip install --no-build-isolation"),
    (["mmcv.ops"], "no compiled operations"),
])  # fmt: skip
def test_missing_package_is_named_in_one_sentence(missing, message, monkeypatch):
    check_packages()
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as raised:
        check_packages()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_version_assertion_becomes_a_way_out(tmp_path, monkeypatch):
    """As upstream's mmdet 3.3 refuses mmcv 2.2 and later."""
    (tmp_path / "mmdet").mkdir()
    (tmp_path / "mmdet" / "__init__.py").write_text("assert False, 'MMCV==2.3.6 is used'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mmdet")
    with pytest.raises(ImportError, match=r"mmdet does not fit .*MMCV==2\.3\.6.*pip install"):
        check_packages()


def test_import_of_the_adapters_checks_and_that_of_the_package_does_not():
    code = (
        "import sys\n"
        "sys.modules['mmcv'] = None\n"
        "import visionssm\n"
        "try:\n    import visionssm.openmmlab\n"
        "except ImportError as error:\n    print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs mmcv" in found.stdout, found.stderr
