"""The GPU's kernels: interpreted on the CPU, and compiled for a card that need not be there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgsrl.surgery.gpu_products import _units

triton = pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]

INTERPRETED = """
import math, sys, torch
from mgsrl.surgery import gpu_products
from mgsrl.surgery.gpu_products import combine, span_products
from mgsrl.surgery.gramian import gramian, combine_

gpu_products.UNIT, gpu_products.BLOCK = 64, 16
torch.manual_seed(0)
close = torch.testing.assert_close

for rows in (1, 3, 8):
    for dtype, room in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)):
        buffer = torch.randn(rows, 411).to(dtype)
        spans = [(3, 3), (3, 4), (4, 67), (67, 131), (131, 400)]
        found = span_products(buffer, spans)
        for product, (start, stop) in zip(found, spans, strict=True):
            part = buffer[:, start:stop].double()
            close(product, part @ part.T, rtol=room, atol=room)
            assert torch.equal(product, product.T)
        weights = torch.randn(rows, dtype=torch.promote_types(dtype, torch.float32))
        expected = weights.double() @ buffer[:, 5:400].double()
        target = torch.full((395,), math.nan, dtype=weights.dtype)
        combine(buffer[:, 5:400], weights, target)
        close(target.double(), expected, rtol=room, atol=room)
        combine(buffer[:, 5:400], weights, buffer[0, 5:400])  # in place
        close(buffer[0, 5:400], expected.to(dtype), rtol=1e-2 if dtype == torch.bfloat16 else room,
              atol=room)
        assert buffer.isfinite().all()

for layout in (torch.randn(90, 2).T, torch.randn(2, 180)[:, ::2]):
    close(span_products(layout, [(1, 89)])[0].float(), layout[:, 1:89] @ layout[:, 1:89].T)

buffer = torch.randn(3, 200)
buffer[1, 99] = math.nan
finite = span_products(buffer, [(0, 99), (99, 100), (100, 200)]).isfinite()
assert finite[[0, 2]].all()
assert finite[1, [0, 0, 2], [0, 2, 2]].all() and not finite[1, 1].any()
assert not len(span_products(buffer, []))

stride = 2**31 + 7  # in elements; a file that is a hole but for the rows' beginnings
try:
    whole = torch.from_file(sys.argv[1], shared=True, size=2 * stride + 300)
except (OSError, RuntimeError):
    whole = None
if whole is not None:
    far = whole.as_strided((3, 300), (stride, 1)).copy_(torch.randn(3, 300))
    close(span_products(far, [(0, 300)])[0], far.double() @ far.double().T, rtol=1e-5, atol=1e-4)
    target, weights = torch.empty(300), torch.randn(3)
    combine(far, weights, target)
    close(target, weights @ far.clone(), rtol=1e-5, atol=1e-5)
print("as it should be")
"""


def test_kernels_compute_what_they_should(tmp_path: Path) -> None:
    """In a process of its own: Triton decides at the import whether it interprets."""
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, str(tmp_path / "rows")],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout == "as it should be\n", done.stderr


@pytest.mark.parametrize("rows", ["fp32", "bf16", "fp64"])
def test_kernels_compile_for_a_gpu(rows: str) -> None:
    from triton import language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mgsrl.surgery.gpu_products import _pair_products, _weighted_sum

    wide = "fp64" if rows == "fp64" else "fp32"
    products = ASTSource(
        _pair_products,
        signature={
            "rows": f"*{rows}",
            "stride": "i64",
            "bounds": "*i64",
            "num_units": "i32",
            "pairs": "*i64",
            "out": "*fp64",
            **dict.fromkeys(("K", "WIDE", "BLOCK"), "constexpr"),
        },
        constexprs={"K": 6, "WIDE": tl.float64 if wide == "fp64" else tl.float32, "BLOCK": 1024},
    )
    combination = ASTSource(
        _weighted_sum,
        signature={
            "rows": f"*{rows}",
            "stride": "i32",
            "length": "i32",
            "weights": f"*{wide}",
            "out": f"*{wide}",
            **dict.fromkeys(("D", "P", "BLOCK"), "constexpr"),
        },
        constexprs={"D": 3, "P": 4, "BLOCK": 1024},
    )
    for source in (products, combination):
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert ".target sm_90" in compiled.asm["ptx"]


@given(spans=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)), max_size=6))
@settings(deadline=None)
def test_units_cover_every_span(spans: list[tuple[int, int]]) -> None:
    ranges = [(start, start + length) for start, length in spans]
    owner_U, bounds_2U = _units(ranges)
    for i, (start, stop) in enumerate(ranges):
        low_U, high_U = bounds_2U[:, owner_U == i]
        covered = [start, *high_U.tolist()]
        assert covered[:-1] == low_U.tolist() or not len(low_U)
        assert covered[-1] == max(stop, start)
        assert torch.all(high_U > low_U)
