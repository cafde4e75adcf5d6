"""The drop-in for mamba_ssm's function: forms of B and C, dtypes, errors."""

from __future__ import annotations

import pytest
import torch

from visionssm.ops import selective_scan_fn


def _inputs(b=2, d=6, l=11, n=2):
    torch.manual_seed(0)
    return {
        "u": torch.randn(b, d, l),
        "delta": torch.rand(b, d, l),
        "A": -torch.rand(d, n),
        "B": torch.randn(b, n, l),
        "C": torch.randn(b, n, l),
    }


def test_constant_projections_equal_repeated_ones():
    inputs = _inputs()
    constant = torch.randn(6, 2)
    per_channel = constant[None, :, :, None].expand(2, 6, 2, 11).contiguous()
    expected = selective_scan_fn(**{**inputs, "B": per_channel, "C": per_channel})
    actual = selective_scan_fn(**{**inputs, "B": constant, "C": constant})
    torch.testing.assert_close(actual, expected)


def test_forms_of_B_and_C_may_differ():
    inputs = _inputs()
    grouped = torch.stack([inputs["B"], 2 * inputs["B"]], dim=1)
    mixed = selective_scan_fn(**{**inputs, "B": grouped})
    both = selective_scan_fn(
        **{**inputs, "B": grouped, "C": inputs["C"][:, None].expand(2, 2, 2, 11)}
    )
    torch.testing.assert_close(mixed, both)


def test_output_keeps_the_input_dtype():
    inputs = {key: t.bfloat16() if key != "A" else t for key, t in _inputs().items()}
    out, last_state = selective_scan_fn(
        **inputs, z=inputs["u"], delta_softplus=True, return_last_state=True
    )
    assert out.dtype == torch.bfloat16
    assert out.shape == (2, 6, 11)
    assert last_state.dtype == torch.float32
    assert last_state.shape == (2, 6, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(6, 11)}, "u: expected"),
        ({"A": torch.zeros(6, 2, dtype=torch.complex64)}, "A: complex decay is not supported"),
        ({"A": torch.zeros(5, 2)}, "A: expected"),
        ({"delta": torch.zeros(2, 6, 10)}, "delta: expected"),
        ({"B": torch.zeros(2, 4, 2, 11)}, "B: expected .* g dividing 6"),
        ({"z": torch.zeros(2, 6)}, "z: expected"),
        ({"D": torch.zeros(2, 3)}, "D: expected"),
        ({"C": torch.zeros(2, 2, 11, device="meta")}, "C: expected device"),
        ({"C": torch.zeros(2, 2, 11, dtype=torch.int32)}, "C: expected a real floating dtype"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        selective_scan_fn(**{**_inputs(), **change})
