"""The backends of attention beside each other at the decoder's shape. Step 4 of the list.

    python -m benchmarks.gpu.attention --out OUT

4352 tokens, heads of 96 (Lo and Hi), 1 to 32 rows: PyTorch's backends, and FlexAttention through
torch.compile. On a CPU only the default exists: --tokens 64 --rows 1,2 tries the script.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.environment import environment
from benchmarks.speed.command import numbers
from benchmarks.speed.harness import in_turns
from flowmo.model.attention import BACKENDS
from flowmo.training.json_report import write_json


def ways(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Those that compute these inputs here."""
    found: dict[str, Callable[[], Tensor]] = {
        "default": lambda: F.scaled_dot_product_attention(q, k, v)
    }
    if not q.is_cuda:
        return found

    def with_backend(backend: Any) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    flex = torch.compile(flex_attention, dynamic=False)
    candidates: dict[str, Callable[[], Tensor]] = {
        backend.name.lower(): partial(with_backend, backend) for backend in BACKENDS
    }
    candidates["flex_attention"] = lambda: flex(q, k, v)
    for name, way in candidates.items():
        try:
            way()
        except Exception as error:  # noqa: BLE001  (compilers and drivers have their own kinds)
            print(f"left out: {name}: {str(error).splitlines()[0]}")
        else:
            found[name] = way
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write OUT/attention.json, print a line a backend and number of rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.attention")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--rows", type=numbers, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=4352)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    records = []
    for rows in options.rows:
        shape = (rows, options.heads, options.tokens, options.head_dim)
        q, k, v = torch.randn(3, *shape, dtype=torch.bfloat16, device=device)
        flops = 4 * rows * options.heads * options.tokens**2 * options.head_dim
        with torch.inference_mode():
            expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
            found = ways(q, k, v)
            errors = {name: (way() - expected).abs().max().item() for name, way in found.items()}
            timings = in_turns(found, rounds=options.rounds)
        for name, timing in timings.items():
            rate = flops / timing.median
            print(
                f"{rows:3} rows  {name:22} {timing.median * 1e3:8.3f} ms  {rate / 1e12:.4g} TFLOP/s"
            )
            records.append(
                {
                    "rows": rows,
                    "backend": name,
                    "seconds": timing.median,
                    "low": timing.low,
                    "high": timing.high,
                    "flops_a_second": rate,
                    "largest_error": errors[name],
                }
            )
    report = {
        "tokens": options.tokens,
        "heads": options.heads,
        "head_dim": options.head_dim,
        "records": records,
        "environment": environment(),
    }
    write_json(options.out / "attention.json", report)


if __name__ == "__main__":
    main()
