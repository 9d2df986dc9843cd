"""A head and image prediction: what they compute, and that older models do not notice them."""

from dataclasses import replace

import pytest
import torch

from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig, preset
from flowmo.model.errors import ConfigError
from flowmo.model.fingerprint import compute_fingerprint
from flowmo.model.flowmo import FlowMo
from flowmo.model.head import LEAST_TIME, Head, in_two_parts, rate, to_pixels
from flowmo.model.inference import InferenceModel
from flowmo.model.network import with_mask
from flowmo.model.patches import patchify
from flowmo.model.sampler import noise

PLAIN = FlowMoConfig(
    image_size=32,
    patch_size=8,
    encoder=TransformerConfig(width=32, depth=2, heads=2),
    decoder=TransformerConfig(width=48, depth=2, heads=2),
    code_length=4,
    token_bits=6,
    group_bits=3,
    sampler=SamplerConfig(steps=3, guidance=1.0),
)
FORMS = {
    "head": replace(PLAIN, head=(8, 6, 4)),
    "image": replace(PLAIN, prediction="image"),
    "both": replace(PLAIN, prediction="image", head=(8, 4)),
}


def build(config: FlowMoConfig) -> FlowMo:
    torch.manual_seed(1)
    return FlowMo(config).eval()


@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_the_serving_form_equals_the_training_form(name: str) -> None:
    network = build(FORMS[name])
    model = InferenceModel(network)
    x = torch.randn(2, 3, 32, 32)
    condition = with_mask(network.quantize(network.encode(x)))
    times = [0.9, 0.02]  # one of them below the least time that is divided by
    expected = network.velocity(x, torch.tensor(times), condition)
    torch.testing.assert_close(model.velocity(x, times, condition), expected, atol=1e-4, rtol=1e-4)
    start = noise([3, 4], (3, 32, 32))
    sample = network.decode(condition[..., :-1], start=start)
    torch.testing.assert_close(
        model.decode(condition[..., :-1], start=start), sample, atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_a_predicted_image_is_what_one_step_from_noise_gives() -> None:
    network = build(FORMS["both"])
    x = torch.randn(1, 3, 32, 32)
    condition = with_mask(torch.ones(1, 4, 6))
    patches = network.decoder(patchify(x, 8), condition, (4, 4), torch.ones(1)).img
    image = to_pixels(patches, x, network.head, 8)
    torch.testing.assert_close(x - network.velocity(x, 1.0, condition), image)
    again = network.decoder(patchify(x, 8), condition, (4, 4), torch.full((1,), 0.01)).img
    image = to_pixels(again, x, network.head, 8)
    velocity = network.velocity(x, 0.01, condition)
    torch.testing.assert_close(x - LEAST_TIME * velocity, image)


@torch.no_grad()
def test_a_head_whose_last_convolution_is_zero_changes_nothing() -> None:
    head = Head((8, 4))
    for parameter in head.out.parameters():
        parameter.zero_()
    patches = torch.randn(1, 16, 3 * 64 + 8 * 16)
    noisy = torch.randn(1, 3, 32, 32)
    plain = to_pixels(patches[..., : 3 * 64], noisy, None, 8)
    assert torch.equal(to_pixels(patches, noisy, head, 8), plain)


@torch.no_grad()
def test_a_head_sees_across_the_borders_of_patches() -> None:
    head = Head((8, 4))
    patches = torch.randn(1, 16, 3 * 64 + 8 * 16)
    noisy = torch.zeros(1, 3, 32, 32)
    before = to_pixels(patches, noisy, head, 8)
    patches[:, 0] += 1.0
    changed = (to_pixels(patches, noisy, head, 8) - before).abs().sum((0, 1)) > 1e-6
    assert changed[:8, :8].all()
    assert changed[4, 8:10].all()  # the patch to the right
    assert not changed[20:].any()


def test_the_rate_has_a_ceiling_and_is_exact_in_two_bfloat16_numbers() -> None:
    t = torch.linspace(0, 1, 101)
    expected = 1 / t.clamp_min(LEAST_TIME)
    torch.testing.assert_close(rate(t), expected)
    parts = in_two_parts(rate(t), torch.bfloat16).to(torch.bfloat16).float()
    torch.testing.assert_close(parts.sum(-1), expected, rtol=2**-15, atol=0)
    assert not torch.allclose(parts[:, 0], expected, rtol=2**-12)


@torch.no_grad()
def test_bfloat16_weights_do_not_coarsen_the_step() -> None:
    """At the last step of a grid the image replaces the state: what is left of it is rounding."""
    network = build(replace(FORMS["image"], sampler=SamplerConfig(steps=1, guidance=1.0)))
    for parameter in network.decoder.final_layer_img.linear.parameters():
        parameter.zero_()  # an image of zeros
    model = InferenceModel(network, dtype=torch.bfloat16)
    x = 100 * torch.randn(1, 3, 32, 32)
    v = model.velocity(x, 0.3, with_mask(torch.ones(1, 4, 6)))
    assert (x - 0.3 * v).abs().max() < 0.02


def test_configs_and_fingerprints_of_older_models_stay() -> None:
    assert PLAIN.to_dict()["head"] == []
    older = {k: v for k, v in PLAIN.to_dict().items() if k not in ("head", "prediction")}
    assert FlowMoConfig.from_dict(older) == PLAIN
    state = {"a": torch.ones(2)}
    prints = {compute_fingerprint(config, state) for config in (PLAIN, *FORMS.values())}
    assert len(prints) == 1 + len(FORMS)
    for config in FORMS.values():
        assert FlowMoConfig.from_dict(config.to_dict()) == config


def test_the_published_form_has_no_head() -> None:
    for name in ("small", "lo", "hi", "continuous-lo"):
        config = preset(name)
        assert (config.prediction, config.head) == ("velocity", ())
        assert config.decoder_patch_dim == config.patch_dim


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": (4, 4, 4, 4, 4)}, "divisible by 16"),
        ({"head": (4, 0)}, "head must be a whole number"),
        ({"prediction": "noise"}, "prediction must be one of"),
    ],
)
def test_what_does_not_fit_is_an_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PLAIN, **changes)  # type: ignore[arg-type]
