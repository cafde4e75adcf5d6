"""A small run of every kernel: `compute-sanitizer python -m tests.ops.sanitize`."""

from __future__ import annotations

import torch

from tests.ops.scan_cases import make_inputs, outputs_and_gradients, random_routes


def main() -> None:
    for n, d in ((1, 40), (1, 64), (7, 33)):
        inputs = make_inputs(1, 2, 300, d, n, dtype=torch.bfloat16, device="cuda")
        for routes in (None, random_routes(2, 300).cuda(), random_routes(2, 300, steps=50).cuda()):
            outputs_and_gradients(inputs, routes=routes)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
