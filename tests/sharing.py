"""How the tests are shared out between processes (``make test``)."""

from xdist.scheduler import LoadFileScheduling

# A Ray cluster takes both cores, and some of these count its processes on the whole machine.
ON_RAY = frozenset(
    {
        "tests/benchmarks/test_chaos.py",
        "tests/flowmo/test_train_on_ray.py",
        "tests/k8s/test_running.py",
        "tests/service/cluster/test_autoscaling.py",
        "tests/service/cluster/test_cluster.py",
        "tests/service/cluster/test_cluster_keys.py",
        "tests/service/cluster/test_remote_calls.py",
    }
)


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]  # it comes without types
    """A file stays with one of the processes, and so do all files that start Ray clusters.

    pytest-xdist's own mark for this, ``xdist_group``, does nothing under pytest 9.2, whose items
    no longer take another node id.
    """

    def _split_scope(self, nodeid: str) -> str:
        """The name of the unit that a test belongs to."""
        path = nodeid.partition("::")[0]
        return "on Ray" if path in ON_RAY else path
