"""A data set of photographs for demonstrations, from packages that any Debian machine can fetch.

    python -m flowmo.training.data.demo --out DIR

Square crops at several scales, as tar files that ``flowmo train`` reads. docs/demo-data.md has the
details.
"""

from flowmo.training.data.demo.build import build_demo_data
from flowmo.training.data.demo.manifest import DemoDataConfig
from flowmo.training.data.demo.packages import PackageError

__all__ = ["DemoDataConfig", "PackageError", "build_demo_data"]
