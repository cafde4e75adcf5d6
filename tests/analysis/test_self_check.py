"""The self-check: passes what is right, sees what is wrong."""

import pytest
import torch

from visionssm.analysis import self_check
from visionssm.ops import selective_scan


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_implementations_agree_with_the_reference(implementation):
    errors = self_check.selective_scan_errors(torch.device("cpu"), implementation)
    assert errors.keys() >= {"y", "last_state", "grad_u", "grad_delta", "grad_D"}
    assert max(errors.values()) <= self_check.TOLERANCE


def test_a_one_percent_error_is_seen(monkeypatch):
    def slightly_wrong(u, *args, implementation, **kwargs):
        wrong = 1.0 if implementation == "reference" else 1.01
        return selective_scan(u * wrong, *args, implementation=implementation, **kwargs)

    monkeypatch.setattr(self_check, "selective_scan", slightly_wrong)
    errors = self_check.selective_scan_errors(torch.device("cpu"), "torch")
    assert errors["y"] > self_check.TOLERANCE
    assert errors["grad_u"] > self_check.TOLERANCE
