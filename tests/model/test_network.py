"""Patches, positions and the network's contract with its callers."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from flowmo.model import rotary
from flowmo.model.attention import CPU_EXPLICIT_MAX_TOKENS, attention
from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.network import with_mask
from flowmo.model.patches import patchify, unpatchify
from flowmo.model.rotary import (
    TableKey,
    apply_rotary,
    grid_positions,
    image_positions,
    joint_positions,
    kept_table,
    rotary_table,
)


def test_patches_are_row_major_with_channels_last() -> None:
    image = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    patches = patchify(image, 2)
    assert patches.shape == (2, 6, 12)
    # Second patch of the first row: rows 0-1, columns 2-3, channel fastest.
    expected = [image[0, c, r, x].item() for r in (0, 1) for x in (2, 3) for c in range(3)]
    assert patches[0, 1].tolist() == expected
    assert torch.equal(unpatchify(patches, 2, (2, 3)), image)


def test_rotation_depends_on_relative_position_only() -> None:
    q, k = torch.randn(1, 8), torch.randn(1, 8)

    def score(at: float, to: float) -> float:
        tables = [rotary_table(torch.full((1, 3), p).double(), (2, 2, 4)) for p in (at, to)]
        return float((apply_rotary(q, tables[0]) * apply_rotary(k, tables[1])).sum())

    assert score(3, 5) == pytest.approx(score(10, 12), abs=1e-5)
    assert score(3, 5) != pytest.approx(score(3, 6), abs=1e-3)


def test_adjacent_elements_form_the_rotated_pairs() -> None:
    table = rotary_table(torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64), (0, 4, 0))
    rotated = apply_rotary(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), table)
    angles = torch.tensor([1.0, 0.01])  # theta^0, theta^(-2/4)
    expected = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten()
    assert torch.allclose(rotated[0], expected, atol=1e-6)


def test_grid_tokens_stand_at_the_centres_of_their_cells() -> None:
    positions = grid_positions(4, 4, 8)
    assert positions.tolist() == [[0, 0.5, 1.5], [0, 0.5, 5.5], [0, 2.5, 1.5], [0, 2.5, 5.5]]
    # One token a patch is that patch's own place.
    assert torch.equal(grid_positions(9, 3, 3), image_positions(3, 3))


def test_both_ways_of_attention_agree() -> None:
    length = CPU_EXPLICIT_MAX_TOKENS + 1
    q, k, v = torch.randn(3, 1, 2, length, 8).unbind(0)
    fused = attention(q, k, v, 0.3)
    # The rows of fewer queries take the explicit way; each row is independent of the others.
    assert torch.allclose(attention(q[:, :, :9], k, v, 0.3), fused[:, :, :9], atol=1e-5)


@pytest.fixture(scope="module")
def network() -> FlowMo:
    torch.manual_seed(0)
    part = TransformerConfig(width=32, depth=2, heads=2)
    config = FlowMoConfig(
        image_size=32,
        patch_size=8,
        encoder=part,
        decoder=part,
        code_length=4,
        token_bits=6,
        group_bits=3,
        sampler=SamplerConfig(steps=3),
    )
    return FlowMo(config).eval()


def test_images_are_independent_of_their_batch_mates(network: FlowMo) -> None:
    images = torch.randn(3, 3, 32, 32).clamp(-1, 1)
    with torch.no_grad():
        alone = network.reconstruct(images[:1])
        together = network.reconstruct(images)[:1]
    assert torch.allclose(alone, together, atol=1e-5)


def test_decoding_is_decided_by_the_seeds(network: FlowMo) -> None:
    quantized = torch.ones(2, 4, 6)
    with torch.no_grad():
        images = network.decode(quantized, seeds=[7, 7])
        other = network.decode(quantized[:1], seeds=[8])
    assert images.shape == (2, 3, 32, 32)
    assert torch.allclose(images[0], images[1], atol=1e-6)
    assert not torch.allclose(images[:1], other, atol=1e-2)
    assert float(images.abs().max()) <= 1


def test_gradients_reach_the_encoder_through_signs_and_sampler(network: FlowMo) -> None:
    network.train()
    quantized = network.quantize(network.encode(torch.randn(1, 3, 32, 32)))
    network.decode(quantized, seeds=[0]).square().mean().backward()
    gradient = network.encoder.img_in.weight.grad
    network.eval()
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


def test_other_image_sizes_and_aspect_ratios_pass(network: FlowMo) -> None:
    with torch.no_grad():
        code = network.encode(torch.randn(1, 3, 16, 40))
        velocity = network.velocity(torch.randn(1, 3, 16, 40), 0.5, with_mask(code))
    assert code.shape == (1, 4, 6)
    assert velocity.shape == (1, 3, 16, 40)


@pytest.mark.parametrize("shape", [(1, 3, 30, 32), (3, 32, 32), (1, 1, 32, 32), (1, 3, 0, 32)])
def test_images_of_a_wrong_shape_say_what_came(network: FlowMo, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"\[B, 3, H, W\]|multiples of the patch size 8"):
        network.encode(torch.zeros(shape))


def test_integer_images_are_refused(network: FlowMo) -> None:
    with pytest.raises(ConfigError, match="float"):
        network.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def _key(columns: int = 3) -> TableKey:
    return TableKey("diagonal", 4, 2, columns, (2, 2, 4), torch.device("cpu"))


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> dict[TableKey, torch.Tensor]:
    tables: dict[TableKey, torch.Tensor] = {}
    monkeypatch.setattr(rotary, "_tables", tables)
    return tables


def test_a_kept_table_is_the_computed_one_whatever_asks_first(
    no_tables: dict[TableKey, torch.Tensor],
) -> None:
    expected = rotary_table(joint_positions(4, (2, 3), "diagonal"), (2, 2, 4))
    with torch.inference_mode(), torch.device("meta"):
        table = kept_table(_key())
    assert torch.equal(table, expected)
    assert kept_table(_key()) is table
    x = torch.randn(1, 1, 10, 8, requires_grad=True)
    apply_rotary(x, table).sum().backward()  # a tensor of inference mode would be refused
    assert x.grad is not None
    for columns in range(1, rotary.MAX_TABLES + 9):
        kept_table(_key(columns))
    assert len(no_tables) == rotary.MAX_TABLES


def test_no_tracer_or_transform_leaves_a_table_behind(
    network: FlowMo, no_tables: dict[TableKey, torch.Tensor]
) -> None:
    images = torch.rand(1, 3, 16, 16)
    torch.func.grad(lambda x: network.encode(x).sum())(images)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.encode(torch.rand(1, 3, 16, 16))
    assert not no_tables
    assert network.encode(images).isfinite().all()
    assert no_tables


def test_compiled_and_exported_encoders_have_the_same_table(
    network: FlowMo, no_tables: dict[TableKey, torch.Tensor]
) -> None:
    images = torch.rand(1, 3, 16, 16)
    compiled = torch.compile(network.encode, backend="eager", fullgraph=True)
    without = compiled(images)
    assert not no_tables
    eager = network.encode(images)
    assert torch.equal(without, eager)
    assert torch.equal(compiled(images), eager)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.encode(x)

    exported = torch.export.export(Encoder(), (images,)).module()
    assert torch.equal(exported(images), eager)


def test_bf16_weights_reconstruct_float32_images(network: FlowMo) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    expected = network.reconstruct(images, seeds=[3, 4])
    narrow = copy.deepcopy(network).to(torch.bfloat16).reconstruct(images, seeds=[3, 4])
    assert narrow.dtype == torch.float32
    assert (narrow - expected).abs().mean() < 0.05
    with pytest.raises(ConfigError, match="2 images need as many seeds, got 1"):
        network.reconstruct(images, seeds=[3])
