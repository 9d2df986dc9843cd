"""The shipped checkpoint under both protocols of evaluation, beside codecs.

    python -m benchmarks.evaluate_shipped

writes ``evaluation.json`` and ``.html`` (protocol ``service``), ``evaluation_paper.json`` and
``.html`` (``paper``) to ``benchmarks/results/tiny``. Run it again after the checkpoint has changed.
On six photographs at the model's size, neither is comparable with published figures: what is shown
is how far the two protocols are apart on the same reconstructions.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from flowmo.training.evaluation import (
    PROTOCOLS,
    Evaluation,
    Networks,
    NetworkSources,
    PictureList,
    checkpoint_methods,
    compared,
    evaluate,
    load_model,
)
from flowmo.training.json_report import write_json

ROOT = Path(__file__).resolve().parent.parent
AGAINST = ("mean-colour", "codec:jpeg", "codec:webp", "codec:avif", "codec:jxl")


def main() -> None:
    """Evaluate under both protocols and write the reports."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", nargs="?", default=str(ROOT / "checkpoints" / "tiny"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "tiny")
    parser.add_argument("--inception", default="library", help="as in flowmo evaluate")
    parser.add_argument("--vgg", default="library", help="as in flowmo evaluate")
    parser.add_argument("--lpips", default="library", help="as in flowmo evaluate")
    arguments = parser.parse_args()
    model = load_model(arguments.checkpoint, device="cpu")
    sources = NetworkSources(
        inception=arguments.inception, vgg16=arguments.vgg, lpips=arguments.lpips
    )
    for name, protocol in PROTOCOLS.items():
        others, caveats = compared(AGAINST, model.config.payload_bytes)
        evaluation = Evaluation(
            pictures=PictureList([], model.config.image_size, read=protocol.read),
            methods=[
                *checkpoint_methods(model, [model.config.sampler], protocol=protocol),
                *others,
            ],
            networks=Networks(sources, protocol=protocol),
        )
        with tempfile.TemporaryDirectory() as folder:
            report = evaluate(evaluation, Path(folder), caveats=caveats, on_progress=print)
            assert report is not None
            stem = "evaluation" if name == "service" else f"evaluation_{name}"
            write_json(arguments.out / f"{stem}.json", report)
            shutil.copy(Path(folder) / "report.html", arguments.out / f"{stem}.html")
        figures = {n: (m["psnr"], m["ssim"]) for n, m in report["methods"].items()}
        print(name, figures)


if __name__ == "__main__":
    main()
