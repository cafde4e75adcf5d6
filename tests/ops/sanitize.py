"""A small run of every kernel: `compute-sanitizer python -m tests.ops.sanitize`."""

from __future__ import annotations

import torch

from tests.ops import hsm_ssd_cases, ssd_cases, state_fusion_cases
from tests.ops.scan_cases import make_inputs, outputs_and_gradients, random_gaps, random_routes
from visionssm.ops import ssd


def main() -> None:
    for n, d in ((1, 40), (1, 64), (7, 33)):
        inputs = make_inputs(1, 2, 300, d, n, dtype=torch.bfloat16, device="cuda")
        timed = make_inputs(1, 2, 300, d, n, dtype=torch.bfloat16, device="cuda", elapsed=True)
        for routes in (None, random_routes(2, 300).cuda(), random_routes(2, 300, steps=50).cuda()):
            gaps = random_gaps(1, 2, 300 if routes is None else routes.shape[1], device="cuda")
            outputs_and_gradients(inputs, routes=routes)
            outputs_and_gradients(timed, routes=routes)
            outputs_and_gradients(inputs, gaps=gaps, routes=routes)
    for shape in hsm_ssd_cases.SHAPES:
        inputs = hsm_ssd_cases.make_inputs(*shape, dtype=torch.bfloat16, device="cuda")
        hsm_ssd_cases.outputs_and_gradients(inputs)
    for shape in state_fusion_cases.SHAPES:
        inputs = state_fusion_cases.make_inputs(*shape, dtype=torch.bfloat16, device="cuda")
        state_fusion_cases.outputs_and_gradients(inputs)
    for shape in (*ssd_cases.SHAPES, *ssd_cases.TILED_SHAPES):
        inputs = ssd_cases.make_inputs(*shape, dtype=torch.bfloat16, device="cuda")
        ssd_cases.outputs_and_gradients(ssd, inputs, return_final_states=True)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
