"""A picture of latency against offered load, one line a discipline."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.sweep import SweepPoint


def draw(points: Sequence[SweepPoint], out: Path, *, limit: float) -> None:
    """Draw p50 and p95.

    Args:
        points: The points of the sweep.
        out: PNG file to write.
        limit: latency of a good answer, in seconds.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True, sharey=True)
    for axis, name in zip(axes, ("p50", "p95"), strict=True):
        for discipline in dict.fromkeys(point.discipline for point in points):
            drawn = [
                (point.load * 100, getattr(point.summary.latency, name))
                for point in points
                if point.discipline == discipline and point.summary.latency is not None
            ]
            axis.plot(*zip(*drawn, strict=True), marker="o", markersize=4, label=discipline)
        axis.axhline(limit, color="grey", linewidth=0.8, linestyle=":")
        axis.set_title(f"{name} of latency")
        axis.set_xlabel("offered load, % of the capacity of step")
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("seconds")
    axes[0].legend(title="batching by")
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)
