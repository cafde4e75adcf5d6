"""The self-check: passes what is right, sees what is wrong."""

import pytest
import torch

from visionssm.analysis import self_check

VALUES = {
    "selective_scan": {"y", "last_state", "grad_u", "grad_delta", "grad_D"},
    "hsm_ssd": {"state", "grad_x", "grad_dt", "grad_B"},
    "ssd": {"y", "final_states", "grad_x", "grad_A", "grad_D"},
    "ssd_noncausal": {"y", "grad_x", "grad_dt_bias"},
    "state_fusion": {"y", "grad_x", "grad_weight"},
}


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("op", self_check.SELF_CHECKS)
def test_implementations_agree_with_the_reference(op, implementation):
    errors = self_check.SELF_CHECKS[op](torch.device("cpu"), implementation)
    assert errors.keys() >= VALUES[op]
    assert max(errors.values()) <= self_check.TOLERANCE


@pytest.mark.parametrize(("op", "tokens", "value"), [
    ("selective_scan", "u", "y"), ("hsm_ssd", "x", "state"), ("ssd", "x", "y"),
    ("ssd_noncausal", "x", "y"), ("state_fusion", "x", "y"),
])  # fmt: skip
def test_a_one_percent_error_is_seen(monkeypatch, op, tokens, value):
    right = getattr(self_check, op)

    def slightly_wrong(x, *inputs, implementation, **options):
        wrong = 1.0 if implementation == "reference" else 1.01
        return right(x * wrong, *inputs, implementation=implementation, **options)

    monkeypatch.setattr(self_check, op, slightly_wrong)
    errors = self_check.SELF_CHECKS[op](torch.device("cpu"), "torch")
    assert errors[value] > self_check.TOLERANCE
    assert errors[f"grad_{tokens}"] > self_check.TOLERANCE
