"""What is counted in generated code, what it is committed as, and what is estimated of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.generated_code.__main__ import worse
from benchmarks.generated_code.count import count
from benchmarks.generated_code.estimate import estimates
from flowmo.model.config import preset
from flowmo.model.kernels.choice import triton_is_installed

COMMITTED = Path(__file__).parents[2] / "benchmarks/results/speed/generated_code.json"

# Ten tokens of width eight: one U is 160 bytes.
CODE = """
triton_poi_fused_gelu_0 = async_compile.triton('triton_poi_fused_gelu_0', '''
    inductor_meta={'kernel_num_gb': 3.2e-07},
def triton_poi_fused_gelu_0(in_out_ptr0, xnumel):
''')
def call(self, args):
    buf0 = empty_strided_cuda((10, 8), (8, 1), torch.bfloat16)
    extern_kernels.addmm(arg1_1, arg0_1, arg2_1, out=buf0)
    triton_poi_fused_gelu_0.run(buf0, 80, stream=stream0)
    buf1 = empty_strided_cuda((10, 8), (8, 1), torch.float32)
    norm_kernel_1.run(buf0, reinterpret_tensor(arg3_1, (8, ), (1, ), 0), buf1, 8, stream=stream0)
    buf2 = torch.ops.aten._scaled_dot_product_cudnn_attention.default(buf1, buf1, buf1)
    assert_size_stride(buf2, (10, 8), (8, 1), 'torch.ops.aten._scaled_dot_product_cudnn')
    buf3 = buf2; del buf2  # reuse
    buf4 = empty_strided_cuda((1, ), (1, ), torch.float32)
    norm_kernel_1.run(buf3, buf4, 8, stream=stream0)
    buf5 = empty_strided_cuda((10, 8), (8, 1), torch.float8_e4m3fn)
    quantize_kernel_2.run(buf3, buf5, 8, stream=stream0)
    extern_kernels._scaled_mm(buf5, arg2_1, buf4, buf4, arg1_1, out=buf0)
def get_args():
    arg0_1 = rand_strided((10, 8), (8, 1), device='cuda:0', dtype=torch.bfloat16)
    arg3_1 = rand_strided((2, 8), (8, 1), device='cuda:0', dtype=torch.bfloat16)
"""


def test_launches_and_traffic_are_counted() -> None:
    counts = count(CODE, rows=1, tokens=10, width=8)
    assert (counts.launches, counts.elementwise, counts.float32_activations) == (7, 4, 1)
    # GELU in place; 160 read, 16 of a row of arg3 and 320 written; 160 read, 4 written; then half.
    assert counts.units == pytest.approx((320 + 496 + 164 + 240) / 160, abs=0.01)


@pytest.mark.skipif(not triton_is_installed(), reason="Triton is for Linux; dev has it there")
def test_kernels_compile_for_an_h100_without_spilling(tmp_path: Path) -> None:
    # In a process where nothing has made Triton interpret them.
    program = (
        "import json, dataclasses, benchmarks.generated_code.triton_resources as r; "
        "print(json.dumps([dataclasses.asdict(k) for k in r.resources(1152, 12)]))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=COMMITTED.parents[3],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    kernels = json.loads(answer.stdout)
    assert len(kernels) == 8
    for kernel in kernels:
        assert kernel["spilled"] == 0
        assert kernel["registers"] <= 64  # so that 8 programs share a multiprocessor
        assert kernel["vector_accesses"] >= kernel["global_accesses"] - 2


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    report: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return report


def test_the_goals_are_met_by_what_is_committed(committed: dict[str, Any]) -> None:
    ours = [block for block in committed["blocks"] if block["kernels"] == "all"]
    assert {(block["half"], block["rows"]) for block in ours} >= {("decoder", 1), ("decoder", 16)}
    for block in ours:
        assert block["launches"] <= 14
        assert block["units"] <= 16
        assert block["float32_activations"] == 0
    fp8 = [block for block in committed["blocks"] if block["kernels"] == "all,fp8-rowwise"]
    assert {(block["half"], block["rows"]) for block in fp8} >= {("decoder", 1), ("decoder", 16)}
    for block in fp8:
        assert block["launches"] <= 16
        assert block["units"] <= 22
        assert block["float32_activations"] == 0
    assert all(kernel["spilled"] == 0 for kernel in committed["kernels"])


def test_what_is_worse_is_told(committed: dict[str, Any]) -> None:
    assert worse(committed, committed) == []
    changed = json.loads(json.dumps(committed))
    changed["blocks"][0]["launches"] += 1
    changed["kernels"][0]["spilled"] = 8
    spills, launches = worse(changed, committed)
    assert "spills 8 bytes a thread" in spills
    assert "launches" in launches


def test_the_model_of_waves_knows_where_the_time_goes(committed: dict[str, Any]) -> None:
    found = estimates(preset("lo"), committed["blocks"])
    assert found == [
        {**entry, "forward_seconds": pytest.approx(entry["forward_seconds"], rel=1e-3)}
        | {name: pytest.approx(entry[name], rel=1e-3) for name in _RATES}
        for entry in committed["estimates"]
    ]
    plain = found[0]
    # Of 3.6 TFLOP at 800 TFLOP/s, what is memory traffic added, and waves half empty.
    assert 0.26 < plain["decode_seconds"] < 0.33
    for rows in (1, 16):
        rates = [e["images_a_second"] for e in found if e["rows"] == rows]
        bf16, fp8 = rates[:5], rates[5:]
        for part in (bf16, fp8):  # each variant adds to the one before
            assert part == sorted(part)
        assert all(b > a for a, b in zip(bf16[1:], fp8, strict=True))


_RATES = ("decode_seconds", "images_a_second")
