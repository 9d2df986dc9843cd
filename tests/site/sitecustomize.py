"""Lets torchvision be imported beside a torch that its compiled operators were not built for.

The pinned torch has a CPU build that torchvision has no wheel for: its extension does not load, and
importing it then fails on two operators that are described in Python but exist nowhere. Nothing
here uses them (they are of object detection), so they are declared, without an implementation, when
torchvision is first asked for. Where the extension loads, nothing is done.

Python runs a module of this name at start-up when its folder is on PYTHONPATH, which
``tests/conftest.py`` sees to for the processes that tests start. For a benchmark on such a machine:

    PYTHONPATH=tests/site python -m benchmarks.reconstruction ...
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

_OPERATORS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class _DeclaresOperators(MetaPathFinder):
    """Finds no module; sees torchvision's import coming."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name)
        if spec is None or spec.origin is None:
            return
        import torch

        try:
            for extension in Path(spec.origin).parent.glob("_C*.so"):
                torch.ops.load_library(str(extension))
        except OSError:
            for operator, schema in _OPERATORS.items():
                torch.library.define(operator, schema)


sys.meta_path.insert(0, _DeclaresOperators())
