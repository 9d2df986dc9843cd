"""A data set of photographs for demonstrations, from packages that any Debian machine can fetch.

    python -m training.demo_data --out DIR

Square crops at several scales, as tar files that ``flowmo train`` reads. docs/demo-data.md has the
details.
"""

from training.demo_data.build import build_demo_data
from training.demo_data.manifest import DemoDataConfig
from training.demo_data.packages import PackageError

__all__ = ["DemoDataConfig", "PackageError", "build_demo_data"]
