"""Take needless work out of Triton's interpreter: the same results, several times sooner.

Its scans and reductions call the combining function once per element; a function that is
elementwise over the other axes, as every one is, may take a whole row. Every call of a function by
a kernel patches the language, though the kernel's launch has done so. And every operation makes a
table of the dtypes to look one up.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def _totals(op: interpreter.ReduceScanOpInterface, inputs, axis: int) -> list:
    """The first row along the axis, the first two combined, and so on; a row of every input."""
    columns = [np.moveaxis(x.handle.data, axis, 0) for x in inputs]
    rows = [
        [op.to_tensor(row, x.dtype) for row, x in zip(step, inputs, strict=True)]
        for step in zip(*columns, strict=True)
    ]
    totals = [rows[0]]
    for row in rows[1:]:
        combined = op.combine_fn.fn(*totals[-1], *row)
        totals.append(combined if isinstance(combined, tuple) else (combined,))
    return totals


def _scan_rows(self: interpreter.ScanOps, inputs) -> list:
    totals = _totals(self, inputs, self.axis)
    return [
        self.to_tensor(np.stack([step[i].handle.data for step in totals], self.axis), x.dtype)
        for i, x in enumerate(inputs)
    ]


def _reduce_rows(self: interpreter.ReduceOps, inputs) -> list:
    inputs, axis = self.unravel(inputs, self.axis)
    results = [total.handle.data for total in _totals(self, inputs, axis)[-1]]
    if self.keep_dims:
        results = [np.expand_dims(result, axis) for result in results]
    return [self.to_tensor(y, x.dtype) for y, x in zip(results, inputs, strict=True)]


@cache
def _languages(fn) -> list:
    return [x for x in fn.__globals__.values() if x is tl or x is tl.core]


def _call(self: interpreter.InterpretedFunction, *args, **kwargs):
    if any(tl.core.is_builtin(language.load) for language in _languages(self.fn)):
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*args, **kwargs)


def _remember(get_np_dtype):
    known: dict[str, np.dtype] = {}

    def remembered(dtype: tl.dtype) -> np.dtype:
        if dtype.name not in known:
            known[dtype.name] = get_np_dtype(dtype)
        return known[dtype.name]

    return remembered


def speed_up() -> None:
    """Change the interpreter of this process."""
    interpreter.ScanOps.generic_scan = _scan_rows
    interpreter.ReduceOps.generic_reduce = _reduce_rows
    interpreter.InterpretedFunction.__call__ = _call
    interpreter._get_np_dtype = _remember(interpreter._get_np_dtype)
