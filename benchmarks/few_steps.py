"""What distillation gains: students beside their untuned teacher at as many steps.

    python -m benchmarks.few_steps TEACHER STUDENT [STUDENT ...] --out benchmarks/results/few_steps

writes OUT.json and OUT.png. Protocol: held-out photographs (or --data), centred squares resized to
the model's size; every decoder starts from the same noise and the teacher's tokens; results rounded
to 8 bits. PSNR is against the photograph ("truth") and against the teacher's own sample with
--teacher-steps and its guidance ("teacher"), both means over the pictures. A student decodes with
the sampler of its checkpoint; the untuned teacher with that same sampler.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.environment import environment
from flowmo.imaging.tensors import psnr_of_images, to_images
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import count_forwards
from flowmo.model.tokens import Tokens
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.json_report import write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One sampler, with the teacher's weights and with the student's; PSNR in dB."""

    steps: int
    forwards: int
    untuned_to_teacher: float
    student_to_teacher: float
    untuned_to_truth: float
    student_to_truth: float


class Comparison:
    """Decodes the same tokens from the same noise with any model.

    Args:
        teacher: whose tokens they are.
        images: [B, 3, S, S] in [-1, 1].
        sampler: of the teacher's reference samples.
    """

    def __init__(self, teacher: InferenceModel, images: Tensor, sampler: SamplerConfig) -> None:
        self._teacher, self._images = teacher, images
        self._tokens = teacher.tokenize(images)
        self._reference = self._decode(teacher, self._tokens, sampler)

    @property
    def reference_to_truth(self) -> float:
        """PSNR of the teacher's reference samples."""
        return self._psnr(self._reference, self._images)

    def row(self, student: InferenceModel) -> Row:
        """What a student reaches with its own sampler.

        Raises:
            ConfigError: its tokens are not the teacher's.
        """
        theirs = student.tokenize(self._images)
        if any((a.ids != b.ids).any() for a, b in zip(theirs, self._tokens, strict=True)):
            raise ConfigError(
                "the student's tokens are not the teacher's: was its encoder trained?"
            )
        sampler = student.config.sampler
        untuned = self._decode(self._teacher, self._tokens, sampler)
        learned = self._decode(student, self._tokens, sampler)
        return Row(
            steps=sampler.steps,
            forwards=count_forwards(sampler),
            untuned_to_teacher=self._psnr(untuned, self._reference),
            student_to_teacher=self._psnr(learned, self._reference),
            untuned_to_truth=self._psnr(untuned, self._images),
            student_to_truth=self._psnr(learned, self._images),
        )

    @staticmethod
    def _decode(model: InferenceModel, tokens: Sequence[Tokens], sampler: SamplerConfig) -> Tensor:
        parts = [
            model.detokenize([item], seeds=[seed], sampler=sampler)
            for seed, item in enumerate(tokens)
        ]
        return torch.cat(parts).cpu()

    @staticmethod
    def _psnr(a: Tensor, b: Tensor) -> float:
        return fmean(psnr_of_images(a, b))


def draw(rows: Sequence[Row], out: Path) -> None:
    """Both PSNRs against the number of steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    for axis, whom in zip(axes, ("teacher", "truth"), strict=True):
        for which, label in (("untuned", "teacher's weights"), ("student", "student")):
            points = [(row.steps, getattr(row, f"{which}_to_{whom}")) for row in rows]
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
        axis.set_xscale("log", base=2)
        axis.set_xticks([row.steps for row in rows], [str(row.steps) for row in rows])
        axis.set_xlabel("steps")
        axis.set_ylabel("PSNR (dB)")
        axis.set_title("against the teacher's sample" if whom == "teacher" else "against the photo")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_steps")
    parser.add_argument("teacher")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="path of the report, no suffix")
    parser.add_argument("--teacher-steps", type=int, default=25)
    parser.add_argument("--teacher-guidance", type=float, default=None)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    teacher = InferenceModel(FlowMo.from_pretrained(options.teacher), device=options.device)
    own = replace(teacher.config.sampler, schedule="power", times=(), steps=options.teacher_steps)
    if options.teacher_guidance is not None:
        own = replace(own, guidance=options.teacher_guidance)
    pictures = held_out_pictures(options.data, teacher.config.image_size, limit=options.limit)
    images = to_images(pictures)
    comparison = Comparison(teacher, images, own)
    rows = []
    print(f"{'':>6}{'to the teacher (dB)':>24}{'to the truth (dB)':>24}")
    print(f"{'steps':>6}{'untuned':>12}{'student':>12}{'untuned':>12}{'student':>12}")
    for name in options.students:
        model = InferenceModel(FlowMo.from_pretrained(name), device=options.device)
        rows.append(row := comparison.row(model))
        values = [row.untuned_to_teacher, row.student_to_teacher]
        values += [row.untuned_to_truth, row.student_to_truth]
        print(f"{row.steps:>6}" + "".join(f"{value:>12.2f}" for value in values))
    rows.sort(key=lambda row: row.steps)
    write_json(
        options.out.with_suffix(".json"),
        {
            "teacher": teacher.fingerprint,
            "teacher_sampler": own.to_dict(),
            "teacher_to_truth": comparison.reference_to_truth,
            "pictures": len(images),
            "students": [asdict(row) for row in rows],
            "environment": environment(),
        },
    )
    draw(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
