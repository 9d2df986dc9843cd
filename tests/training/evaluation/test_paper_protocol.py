"""The published way to measure: squares, 8 bits, PSNR in batches, SSIM, InceptionV3's resizing."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import functional as transforms

from flowmo.imaging.tensors import as_levels
from flowmo.model.inference import InferenceModel
from flowmo.training.data.images import read_bilinear_square
from flowmo.training.evaluation import (
    PAPER,
    CheckpointMethod,
    Evaluation,
    EvaluationError,
    MeanColour,
    Method,
    PictureList,
    evaluate,
    find_protocol,
)
from flowmo.training.evaluation import extractors as ex
from flowmo.training.evaluation.methods import truncated
from flowmo.training.evaluation.report import batch_psnr
from flowmo.training.evaluation.store import Row
from flowmo.training.perceptual.exact import exact_float32
from flowmo.training.perceptual.ssim import Ssim
from tests.training.evaluation.conftest import ColourNetworks

Build = Callable[..., Evaluation]


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (40, 40), (333, 47)])
def test_squares_are_those_of_torchvisions_transforms(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    expected = transforms.center_crop(
        transforms.resize(picture, 32, transforms.InterpolationMode.BILINEAR), [32, 32]
    )
    np.testing.assert_array_equal(read_bilinear_square(buffer.getvalue(), 32), expected)


def test_values_lose_their_fraction() -> None:
    levels = torch.tensor([-3.0, 0.0, 0.99, 100.5, 100.999, 254.999, 300.0])
    images = (levels / 127.5 - 1)[None, None, None].expand(1, 3, 1, 7)
    expected = np.array([0, 0, 0, 100, 100, 254, 255])
    np.testing.assert_array_equal(truncated(images)[0, 0, :, 0], expected)


def test_psnr_of_a_batch_is_that_of_its_mean_error() -> None:
    def row(number: int, error: float) -> Row:
        return Row(number=number, name="", psnr=10 * math.log10(255**2 / error))

    rows = [row(0, 1.0), row(3, 4.0), row(4, 10.0), row(5, 7.0)]
    expected = [10 * math.log10(255**2 / error) for error in (5.0, 7.0)]
    assert batch_psnr(rows, 5) == pytest.approx(expected)
    assert batch_psnr(rows, 1) == [r.psnr for r in rows]


def test_ssim_with_a_uniform_window_is_the_formula() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 256, (12, 11, 3)).astype(np.uint8) for _ in range(2))
    values = []
    for channel in range(3):
        for row in range(12 - 6):
            for column in range(11 - 6):
                x, y = (
                    p[row : row + 7, column : column + 7, channel].astype(float).ravel()
                    for p in (a, b)
                )
                (vx, c), (_, vy) = np.cov(x, y)
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                values.append(
                    (2 * x.mean() * y.mean() + c1)
                    * (2 * c + c2)
                    / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (vx + vy + c2))
                )
    ssim = Ssim(window="uniform")
    assert ssim(as_levels([a, a]), as_levels([b, a])) == pytest.approx([np.mean(values), 1.0])
    assert (ssim.missing, ssim.computed_by) == (None, "uniform 7 x 7")


def test_an_evaluation_by_the_papers_protocol(
    evaluation: Build, micro: InferenceModel, pictures: Path, tmp_path: Path
) -> None:
    list_ = PictureList([str(pictures)], 32, read=PAPER.read)
    networks = ColourNetworks(PAPER)
    methods: list[Method] = [MeanColour(), CheckpointMethod(micro, truncates=True)]
    plain = evaluation(networks=networks)
    asked = Evaluation(
        pictures=list_, methods=methods, networks=networks, plan=plain.plan, reference=list_
    )
    report = evaluate(asked, tmp_path)
    assert report is not None
    assert report["protocol"]["name"] == "paper"
    assert "lose their fraction" in report["protocol"]["rounding"]
    assert report["methods"]["flowmo"]["method"]["values"] == "truncated"
    found = report["methods"]["mean-colour"]
    squares = [list_.square(number).astype(float) for number in range(len(list_))]
    errors = [np.mean((s - s.mean((0, 1)).round()) ** 2) for s in squares]
    batches = [np.mean(errors[first : first + 5]) for first in (0, 5)]
    assert found["psnr"] == pytest.approx(np.mean([10 * math.log10(255**2 / e) for e in batches]))
    # Colours of colours are the same up to their rounding.
    assert found["rfid"] == pytest.approx(found["reference_fid"], abs=1e-6)
    assert found["rfid"] < 1
    assert found["reference_precision"] == found["precision"]
    with pytest.raises(EvaluationError, match="protocol was 'paper 3' and is now 'service 3'"):
        evaluate(evaluation(methods=methods, networks=ColourNetworks()), tmp_path)
    with pytest.raises(EvaluationError, match="the protocol is service or paper, got 'papers'"):
        find_protocol("papers")


def test_inception_gives_both_resizings_and_adms_features() -> None:
    inception = ex.Inception("random")
    levels = torch.randint(0, 256, (1, 3, 64, 48), dtype=torch.uint8)
    names = (ex.INCEPTION, ex.PYTORCH_FID, ex.SPATIAL, ex.LOGITS)
    branches = []
    inception.network.Mixed_6d.branch1x1.register_forward_hook(
        lambda _module, _inputs, output: branches.append(output)
    )
    found = inception(levels, names)
    assert {name: found[name].shape[1] for name in names} == dict(
        zip(names, (2048, 2048, 17 * 17 * 7, 1008), strict=True)
    )
    # Twice for each resizing: as a feature, and inside of its block. The last two are TensorFlow's.
    branch = branches[-1][0]
    spatial = found[ex.SPATIAL][0].reshape(17, 17, 7)
    assert torch.equal(spatial[3, 5], branch[:7, 3, 5])
    assert not torch.allclose(found[ex.INCEPTION], found[ex.PYTORCH_FID], rtol=1e-3)
    # torch-fidelity's own network gives the same 2,048.
    with torch.inference_mode():
        assert torch.equal(inception.network(levels)[0], found[ex.INCEPTION])
    with FlopCounterMode(display=False) as counter:
        inception(levels, [ex.PYTORCH_FID])
    assert 1.0e10 < counter.get_total_flops() < 1.3e10  # one pass and not two


def test_pytorch_fids_input_has_half_pixel_centres() -> None:
    ramp = torch.arange(0, 4, dtype=torch.uint8).view(1, 1, 1, 4).expand(1, 3, 4, 4)
    row = ex.pytorch_fid_input(ramp)[0, 0, 0]
    place = ((torch.arange(299) + 0.5) * 4 / 299 - 0.5).clamp(0, 3)
    torch.testing.assert_close(row, 2 * place / 255 - 1)


def test_networks_that_measure_are_never_rounded() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast("cpu", torch.bfloat16), exact_float32("cpu"):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_measured_in_float32_within_a_bf16_run(micro: InferenceModel) -> None:
    """What a GPU run's validation does: the networks are called where autocast is on."""
    networks = ColourNetworks(PAPER)
    seen: list[bool] = []

    class Watching(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return (a - b).square().mean((1, 2, 3))

    networks._lpips = Watching()
    a = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        distances = networks.distances(a, 255 - a)
    assert seen == [False]
    pixels = a.permute(0, 2, 3, 1).numpy()
    assert distances is not None
    assert distances == pytest.approx(
        [float(((2 * (x / 127.5 - 1)) ** 2).mean()) for x in pixels], rel=1e-5
    )
