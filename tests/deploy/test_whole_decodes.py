"""A decode that is computed as a whole is the decode by steps, and is used for nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowmo.deploy.compiled import CompiledSteps
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import Observer, count_forwards, time_grid

SAMPLER = SamplerConfig(steps=4)
assert SAMPLER.steps < count_forwards(SAMPLER) < 2 * SAMPLER.steps  # some are guided, some not


def images_of(model: InferenceModel, rows: int) -> tuple[Tensor, Tensor]:
    """Noise and a quantized code."""
    config, generator = model.config, torch.Generator().manual_seed(rows)
    start = torch.randn(rows, 3, config.image_size, config.image_size, generator=generator)
    code = torch.randn(rows, config.code_length, config.token_bits, generator=generator)
    return start, code.sign()


def test_a_whole_decode_is_the_decode_by_steps(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = InferenceModel(FlowMo.from_pretrained(str(small_checkpoint)), dtype=torch.bfloat16)
    steps = CompiledSteps(model, (1, 2, 4), compiled=False)
    whole = CompiledSteps(model, (1, 2, 4), compiled=False, whole_decodes=[SAMPLER])
    made: list[int] = []

    def decode(
        steps: CompiledSteps, rows: int, sampler: SamplerConfig, observer: Observer | None = None
    ) -> Tensor:
        model.compute_with(steps)
        start, quantized = images_of(model, rows)
        return model.decode(quantized, start=start, sampler=sampler, observer=observer)

    expected = decode(steps, 1, SAMPLER)
    assert expected.std() > 0.1
    velocity = whole.velocity

    def counted(*inputs: Tensor) -> Tensor:
        made.append(len(inputs[0]))
        return velocity(*inputs)

    monkeypatch.setattr(whole, "velocity", counted)
    assert torch.equal(decode(whole, 1, SAMPLER), expected)
    assert not made
    # Several images, another sampler, or somebody who looks at the steps: step by step, as ever.
    seen: list[int] = []
    watched = decode(whole, 1, SAMPLER, observer=lambda step: seen.append(step.step))
    assert torch.equal(watched, expected)
    assert seen == [1, 2, 3, 4]
    other = replace(SAMPLER, guidance=1.0)
    for rows, sampler in ((2, SAMPLER), (1, other)):
        assert torch.equal(decode(whole, rows, sampler), decode(steps, rows, sampler))
    assert len(made) == 3 * 4
    assert model.memory_by_owner().keys().isdisjoint({"modulation of whole decodes"})
    model.compute_with(whole)
    table = model.modulation(time_grid(SAMPLER)[:-1])
    assert model.memory_by_owner()["modulation of whole decodes"] == table.nbytes


def test_whole_decodes_need_a_decoder_that_knows_their_times(small_checkpoint: Path) -> None:
    network = FlowMo.from_pretrained(str(small_checkpoint))
    encoder = InferenceModel(network, halves=["encoder"])
    with pytest.raises(ConfigError, match="built without its decoder"):
        CompiledSteps(encoder, (1,), compiled=False, whole_decodes=[SAMPLER])
    tabulated = InferenceModel(network, times=(1.0, 0.5))
    with pytest.raises(ConfigError, match=r"built for the times \[1.0, 0.5\] only"):
        CompiledSteps(tabulated, (1,), compiled=False, whole_decodes=[SAMPLER])
