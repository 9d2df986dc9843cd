"""A picture of a training run's losses: ``python -m benchmarks.loss_curve LOG.jsonl OUT.png``."""

import argparse
import json
from pathlib import Path

# What a reader looks for first: the objective, its parts, and the quality of held-out pictures.
PANELS = (
    ("flow",),
    ("commitment",),
    ("per_sample_entropy", "codebook_entropy"),
    ("teacher_l1",),
    ("sample_mse",),
    ("perceptual", "sample_perceptual", "teacher_perceptual"),
    ("sample_psnr", "validation_psnr"),
    ("cross_entropy", *(f"validation_cross_entropy_at_{rate}" for rate in (10, 50, 90, 100))),
    ("accuracy", *(f"validation_accuracy_at_{rate}" for rate in (10, 50, 90, 100))),
)


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a run's ``log.jsonl``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def draw(path: Path, out: Path) -> None:
    """Draw the panels that the log has values for."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    log = read_log(path)
    panels = [names for names in PANELS if any(name in line for line in log for name in names)]
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), squeeze=False)
    for axis, names in zip(axes[0], panels, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in log if name in line]
            axis.plot(*zip(*points, strict=True), label=name)
        if names == ("flow",):
            axis.set_yscale("log")
        axis.set_xlabel("step")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss_curve", description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw(arguments.log, arguments.out)


if __name__ == "__main__":
    main()
