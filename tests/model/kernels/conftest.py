"""What Triton's interpreter gets wrong."""

from typing import Any

import numpy as np
import pytest
import torch

from flowmo.model.kernels.choice import triton_is_installed


@pytest.fixture(autouse=True)
def right_casts_to_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the interpreter round to fp8 as a GPU does.

    Its own cast (Triton 3.6 and 3.7) loses the carry where a number rounds up to the next power of
    two, which halves it: of 127.7 it makes 64.
    """
    if not triton_is_installed():
        return
    import triton.language as tl
    from triton.runtime import interpreter

    cast = interpreter._convert_float

    def convert(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) != (tl.float32, tl.float8e4nv):
            return cast(data, source, target, rounding)
        rounded = torch.from_numpy(np.ascontiguousarray(data)).to(torch.float8_e4m3fn)
        return rounded.view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)
