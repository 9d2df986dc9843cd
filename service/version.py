"""The installed version of the distribution."""

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "flowmo-serve"

try:
    VERSION = version(DISTRIBUTION)
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0+unknown"
