"""Rate, distortion and perception by the norm of the initial noise (supplement C.1).

The initial noise is scaled, which raises or lowers its likelihood; at each rate that sweeps out a
curve between distortion (PSNR) and perception (rFID).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowmo.training.evaluation import EvaluationError, load_model
from flowmo.training.experiments.setup import Setup, plot, work_folder, write_result

FACTORS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2)

# What may stand for perception, the best first: key and label.
_PERCEPTION = {"rfid": "rFID", "lpips": "LPIPS"}


def noise_norm(
    checkpoints: Sequence[str], *, setup: Setup, out: Path, factors: Sequence[float] = FACTORS
) -> dict[str, Any] | None:
    """Decode with scaled initial noise.

    Args:
        checkpoints: Checkpoints of several rates; folders or hub repositories.
        setup: how to measure. The paper used 5,000 pictures.
        out: path without suffix.
        factors: on the noise; 1 is the model's own.

    Returns:
        What OUT.json says; None in other ranks than 0. Perception is rFID, LPIPS where Inception's
        weights cannot be had, or nothing.

    Raises:
        EvaluationError: nothing to do, or the folder holds another experiment.
    """
    if not checkpoints or not factors:
        raise EvaluationError("noise-norm needs at least one checkpoint and one factor")
    networks = setup.networks()
    curves: list[dict[str, Any]] = []
    caveats: dict[str, None] = {}
    for number, checkpoint in enumerate(checkpoints):
        model = load_model(checkpoint, device=setup.place, precision=setup.precision)
        methods = {
            factor: setup.method(model, name=f"noise {factor:g}", noise_scale=factor)
            for factor in dict.fromkeys(factors)
        }
        report = setup.evaluate(
            list(methods.values()),
            size=model.config.image_size,
            networks=networks,
            folder=work_folder(out) / f"{number}",
        )
        if report is None:
            continue
        caveats |= dict.fromkeys(report["caveats"])
        config = model.config
        curves.append(
            {
                "checkpoint": checkpoint,
                "model": config.name,
                "fingerprint": model.fingerprint,
                "bits_per_pixel": config.payload_bits / config.image_size**2,
                "sampler": config.sampler.to_dict(),
                "points": [
                    {"factor": factor, **_figures(report["methods"][method.name])}
                    for factor, method in methods.items()
                ],
            }
        )
    if setup.ranks.rank:
        return None
    perception = next((key for key in _PERCEPTION if _has(curves, key)), None)
    result = write_result(
        out,
        "noise-norm",
        "C.1",
        {"perception": perception, "curves": curves, "caveats": list(caveats)},
    )
    _draw(result, out)
    return result


def _figures(method: Mapping[str, Any]) -> dict[str, Any]:
    return {key: method[key] for key in ("pictures", "psnr", "ssim", "lpips", "rfid")}


def _has(curves: Sequence[Mapping[str, Any]], key: str) -> bool:
    return all(point[key] is not None for curve in curves for point in curve["points"])


def _draw(result: Mapping[str, Any], out: Path) -> None:
    """Perception against PSNR as in Figure 1; without perception PSNR against the factor."""
    key = result["perception"]
    x, y = ("PSNR (dB)", _PERCEPTION[key]) if key else ("factor on the noise", "PSNR (dB)")
    with plot(out, x=x, y=y) as axis:
        for curve in result["curves"]:
            points = curve["points"]
            across = [point["psnr" if key else "factor"] for point in points]
            up = [point[key or "psnr"] for point in points]
            label = f"{curve['model']}, {curve['bits_per_pixel']:.3f} bit a pixel"
            axis.plot(across, up, marker="o", label=label)
            for point, a, b in zip(points, across, up, strict=True):
                # Along a curve of the two the factors are on no axis.
                text = f"{point['factor']:g}" if key else ""
                axis.annotate(text, (a, b), (3, 3), textcoords="offset points", fontsize=6)
        axis.legend(fontsize=8)
