"""`visionssm doctor`: the report, and its exit status when a check fails."""

import json
from importlib.metadata import version

import pytest
import torch

from visionssm.cli import doctor
from visionssm.cli.main import main
from visionssm.ops import dispatch


def test_report_names_versions_implementations_and_checks(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert version("torch") in shown
    assert "mmdet" in shown
    assert "PASS" in shown
    assert "FAIL" not in shown


def test_json_report_holds_every_error_below_its_tolerance(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    for check in report["self_check"]:
        expected = {
            "selective_scan": {"y", "last_state", "grad_u", "grad_A"},
            "hsm_ssd": {"state", "grad_x", "grad_dt", "grad_B"},
            "ssd": {"y", "final_states", "grad_x", "grad_A"},
            "ssd_noncausal": {"y", "grad_x", "grad_A"},
            "state_fusion": {"y", "grad_x", "grad_weight"},
        }
        assert expected[check["op"]] <= check["errors"].keys()
        assert max(check["errors"].values()) <= check["tolerance"]


def test_matrix_products_are_not_asked_for_kernels(monkeypatch):
    names = ["torch", "numba", "triton"]
    monkeypatch.setattr(doctor, "available_implementations", lambda device: names)
    monkeypatch.setattr(doctor, "self_check", lambda *check: {"check": check, "passed": True})
    checked = {(op, name) for op, _, name in (c["check"] for c in doctor.diagnose()["self_check"])}
    assert ("ssd_noncausal", "torch") in checked
    assert ("selective_scan", "triton") in checked
    assert ("ssd_noncausal", "triton") not in checked
    assert {op for op, name in checked if name == "numba"} == {"selective_scan"}


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_a_wrong_result_fails_and_sets_the_exit_status(monkeypatch, capsys, error):
    wrong = {"y": error, "last_state": 0.0, "grad_u": 0.0}
    monkeypatch.setitem(doctor.SELF_CHECKS, "selective_scan", lambda *_: wrong)
    assert main(["doctor"]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_crash_is_reported_not_raised(monkeypatch, capsys):
    def crash(*_):
        raise RuntimeError("no kernel image")

    monkeypatch.setitem(doctor.SELF_CHECKS, "selective_scan", crash)
    assert main(["doctor"]) == 1
    assert "RuntimeError: no kernel image" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", doctor.DTYPES)
def test_choice_and_reason_on_cpu(monkeypatch, dtype):
    cpu = torch.device("cpu")
    row = doctor.describe_implementation("other ops", cpu, dtype)
    assert row["implementation"] == "torch"
    assert "off CUDA" in row["why"]
    for works, implementation, why in (
        (True, "numba", "Numba imports"), (False, "torch", "Numba does not import"),
    ):  # fmt: skip
        monkeypatch.setattr(dispatch, "numba_works", lambda works=works: works)
        row = doctor.describe_implementation("selective_scan", cpu, dtype)
        assert row["implementation"] == implementation
        assert why in row["why"]


def test_missing_triton_is_the_reason_given_on_cuda(monkeypatch):
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", False)
    row = doctor.describe_implementation("selective_scan", torch.device("cuda"), torch.float32)
    assert row["implementation"] == "torch"
    assert "Triton does not import" in row["why"]


def test_triton_cache_is_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "scan.cubin").write_bytes(b"1234")
    cache = doctor.triton_cache()
    assert (cache["path"], cache["entries"], cache["writable"]) == (str(tmp_path), 1, True)
    assert cache["bytes"] >= 4


def test_triton_cache_that_does_not_exist_yet(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "later"))
    cache = doctor.triton_cache()
    assert (cache["entries"], cache["bytes"], cache["writable"]) == (0, 0, True)
