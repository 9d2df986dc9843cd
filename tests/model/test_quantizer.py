"""Lookup-free quantization and the Gaussian posterior against closed forms."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowmo.model.quantizer import (
    GaussianPosterior,
    codes_to_ids,
    ids_to_signs,
    lfq_losses,
    signs,
    straight_through,
)


def test_zero_is_minus_one() -> None:
    assert signs(torch.tensor([-2.0, 0.0, 1e-9])).tolist() == [-1.0, -1.0, 1.0]


def test_id_bits_as_the_spec_lays_them_out() -> None:
    # D = 6, G = 3, two ids a token: element i = g 2 + h is bit g of id h.
    code = torch.tensor([[[1.0, -1.0, -1.0, 1.0, 1.0, 1.0]]])
    assert codes_to_ids(code, 3).tolist() == [[[0b101, 0b110]]]


@given(st.integers(1, 6), st.integers(1, 14), st.integers(1, 4), st.integers(0, 2**31))
def test_ids_and_signs_are_inverse(tokens: int, bits: int, ids: int, seed: int) -> None:
    code = torch.randn(2, tokens, bits * ids, generator=torch.Generator().manual_seed(seed))
    indices = codes_to_ids(code, bits)
    assert indices.shape == (2, tokens, ids)
    assert int(indices.min()) >= 0
    assert int(indices.max()) < 2**bits
    assert torch.equal(ids_to_signs(indices, bits), signs(code))


def test_straight_through_passes_the_gradient_as_it_is() -> None:
    code = torch.randn(2, 3, 6, requires_grad=True)
    weight = torch.randn(2, 3, 6)
    quantized = straight_through(code)
    assert torch.allclose(quantized, signs(code), atol=1e-6)
    (quantized * weight).sum().backward()
    assert code.grad is not None
    assert torch.equal(code.grad, weight)


def test_entropies_of_a_code_at_the_origin() -> None:
    # All 2^G sign vectors are equally likely: both entropies are G ln 2 (less the epsilon).
    losses = lfq_losses(torch.zeros(1, 2, 8), group_bits=4)
    assert losses.per_sample_entropy.item() == pytest.approx(4 * math.log(2), abs=1e-5)
    assert losses.codebook_entropy.item() == pytest.approx(4 * math.log(2), abs=1e-3)
    assert losses.commitment.item() == pytest.approx(1.0)


def test_per_sample_entropy_is_a_sum_over_independent_bits() -> None:
    code = 0.05 * torch.randn(3, 4, 6, dtype=torch.float64)
    p = torch.sigmoid(4 * code / 0.1)  # of +1: exp(2 v / T) against exp(-2 v / T)
    bits = -(p * p.log() + (1 - p) * (1 - p).log())
    expected = bits.sum(-1).mean() / 2  # two groups of three bits a token
    measured = lfq_losses(code, group_bits=3).per_sample_entropy
    assert measured.item() == pytest.approx(expected.item(), rel=1e-5)


def test_codebook_entropy_sees_the_mean_distribution() -> None:
    # Four confident vectors, one in each corner of two bits: certain each, uniform together.
    corners = torch.tensor([[-3.0, -3.0], [-3.0, 3.0], [3.0, -3.0], [3.0, 3.0]])[:, None]
    losses = lfq_losses(corners, group_bits=2)
    assert losses.per_sample_entropy.item() == pytest.approx(0.0, abs=1e-6)
    assert losses.codebook_entropy.item() == pytest.approx(math.log(4), abs=1e-3)
    assert losses.commitment.item() == pytest.approx(4.0)


@pytest.mark.parametrize("group_bits", [1, 2, 5, 6])
def test_the_product_of_half_codes_is_the_whole_distribution(group_bits: int) -> None:
    code = 0.1 * torch.randn(3, 5, 2 * group_bits, dtype=torch.float64)
    code.requires_grad_()
    v = code.unflatten(-1, (group_bits, -1)).transpose(-1, -2).reshape(-1, group_bits)
    signs_of_all = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=group_bits)))
    p = (2 / 0.1 * (v @ signs_of_all.double().T)).softmax(-1)
    mean = p.mean(0)
    expected = -(p * p.log()).sum(-1).mean() + (mean * (mean + 1e-5).log()).sum()
    (gradient,) = torch.autograd.grad(expected, code)
    entropy = lfq_losses(code, group_bits).entropy
    assert entropy.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    (found,) = torch.autograd.grad(entropy, code)
    assert torch.allclose(found, gradient, rtol=1e-3, atol=1e-6)


def test_gaussian_posterior_splits_by_feature_and_clamps() -> None:
    posterior = GaussianPosterior(torch.tensor([[[1.0, 2.0, -99.0, 99.0]]]))
    assert posterior.mean.tolist() == [[[1.0, 2.0]]]
    assert posterior.log_variance.tolist() == [[[-30.0, 20.0]]]


def test_kl_closed_form() -> None:
    mean, log_variance = torch.tensor([0.5, -1.0]), torch.tensor([0.0, 1.0])
    code = torch.cat([mean, log_variance]).expand(3, 2, 4)  # two tokens, three images
    one = 0.5 * (0.25 + 1 - 1 - 0) + 0.5 * (1.0 + math.e - 1 - 1)
    assert GaussianPosterior(code).kl().item() == pytest.approx(2 * one)


def test_posterior_samples_have_their_moments() -> None:
    code = torch.tensor([2.0, 2 * math.log(0.5)]).expand(1, 100_000, 2)
    draws = GaussianPosterior(code).sample(torch.Generator().manual_seed(0))
    assert draws.mean().item() == pytest.approx(2.0, abs=0.01)
    assert draws.std().item() == pytest.approx(0.5, abs=0.01)
