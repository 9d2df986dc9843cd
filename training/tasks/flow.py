"""What all stages of a tokenizer share: draws, flow loss and quantizer losses (SPEC).

Shape legend: B batch, K tokens, D bits a token, S image side.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from flowmo.model.flowmo import FlowMo
from flowmo.model.network import with_mask
from flowmo.model.quantizer import GaussianPosterior, lfq_losses, straight_through
from flowmo.training.config import LossWeights, TrainConfig
from flowmo.training.loop.generators import Generators
from flowmo.training.tasks.objective import LossTerm


class Draws(NamedTuple):
    """The random numbers of a batch, drawn before it is cut into micro-batches.

    Attributes:
        t: times, [B] in [0, 1].
        noise: unit normal, [B, 3, S, S].
        keep: false where the condition is dropped, bool [B].
        posterior: unit normal of the Gaussian posterior, [B, K, D]; None for lookup-free
            quantization.
        start: state at t = 1 of a sampling chain, unit normal [B, 3, S, S]; None in stage 1A.
        spacing: u of stage 1B's times, uniform [B, n] in [0, 1); else None.
        target: the teacher's samples from ``start``, [B, 3, S, S] in [-1, 1], in distillation;
            else None.
        place: Where a window lies in the images, uniform [B, 2] in [0, 1), of which a micro-batch
            uses the first; None where whole images are compared.
    """

    t: Tensor
    noise: Tensor
    keep: Tensor
    posterior: Tensor | None = None
    start: Tensor | None = None
    spacing: Tensor | None = None
    target: Tensor | None = None
    place: Tensor | None = None


class Perceptual(Protocol):
    """How different images look to a frozen network."""

    def __call__(self, a: Tensor, b: Tensor, /) -> Tensor:
        """Mean distance of [B, 3, S, S] twice in about [-1, 1]; a scalar with gradients."""


def fat_logit_normal(n: int, generator: torch.Generator, *, uniform_share: float = 0.1) -> Tensor:
    """Times of the "fat" logit-normal: sigmoid of a unit normal, with a share of uniform ones.

    Its distribution function is (1 - u) Phi(log(t / (1 - t))) + u t. The uniform share reaches
    the ends, where the logit-normal has no mass and the sampler still goes.

    Args:
        n: how many.
        generator: its device is the result's.
        uniform_share: u.

    Returns:
        float32 [n] in [0, 1].
    """
    device = generator.device
    normal = torch.randn(n, generator=generator, device=device).sigmoid()
    uniform = torch.rand(n, generator=generator, device=device)
    choice = torch.rand(n, generator=generator, device=device)
    return torch.where(choice < uniform_share, uniform, normal)


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Times moved towards noise: s t / (1 + (s - 1) t), a map of [0, 1] onto itself.

    It is the change of signal-to-noise ratio that a change of resolution makes (Esser et al.,
    "Scaling Rectified Flow Transformers", section 5.3.2).

    Args:
        t: in [0, 1].
        shift: s > 0; the inverse is 1 / s.
    """
    return shift * t / (1 + (shift - 1) * t)


def interpolate(images: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Rectified flow: x_t = (1 - t) x + t eps and its velocity v = eps - x.

    Args:
        images: x, [B, 3, S, S].
        noise: eps, of the same shape.
        t: [B].

    Returns:
        x_t and v.
    """
    t = t[:, None, None, None]
    return (1 - t) * images + t * noise, noise - images


def drop_condition(condition: Tensor, keep: Tensor) -> Tensor:
    """The null condition, all zeros with the mask channel, where ``keep`` is false.

    Args:
        condition: [B, K, D + 1].
        keep: bool [B].
    """
    return condition * keep[:, None, None].to(condition.dtype)


GENERATORS = ("time", "noise", "dropout", "posterior", "chain")
"""Uses of random numbers: flow times, the flow's noise, condition dropout, the Gaussian posterior,
and the times and first state of stage 1B's chain."""


def draw(config: TrainConfig, generators: Generators, *, chain_steps: int | None = None) -> Draws:
    """The random numbers of one optimizer step, for ``config.batch_size`` samples.

    Args:
        config: The run.
        generators: Those of :data:`GENERATORS`.
        chain_steps: The number of steps of a chain at random times; None draws none.
    """
    n, model, device = config.batch_size, config.model, generators.device
    shape = (n, 3, model.image_size, model.image_size)
    code_shape = (n, model.code_length, model.token_bits)
    posterior = start = spacing = place = None
    if model.quantizer == "gaussian":
        posterior = torch.randn(code_shape, generator=generators["posterior"], device=device)
    if chain_steps is not None:
        start = torch.randn(shape, generator=generators["chain"], device=device)
        spacing = torch.rand((n, chain_steps), generator=generators["chain"], device=device)
    dropped = torch.rand(n, generator=generators["dropout"], device=device)
    if config.perceptual.window > 0:
        place = torch.rand((n, 2), generator=generators["dropout"], device=device)
    return Draws(
        t=shift_times(
            fat_logit_normal(n, generators["time"], uniform_share=config.uniform_share),
            config.time_shift,
        ),
        noise=torch.randn(shape, generator=generators["noise"], device=device),
        keep=dropped >= config.condition_dropout,
        posterior=posterior,
        start=start,
        spacing=spacing,
        place=place,
    )


def flow_loss(
    model: FlowMo, images: Tensor, quantized: Tensor, draws: Draws, weights: LossWeights
) -> tuple[LossTerm, Tensor]:
    """Mean squared error of the velocity at one time an image, and the one-step estimates.

    Args:
        model: in training form.
        images: [B, 3, S, S] in [-1, 1].
        quantized: [B, K, D]; dropped where the draws say so.
        draws: times, noise and dropout.
        weights: The weights of the terms.

    Returns:
        The term, and x_t - t v, [B, 3, S, S].
    """
    condition = drop_condition(with_mask(quantized), draws.keep)
    x_t, v = interpolate(images, draws.noise, draws.t)
    v_hat = model.velocity(x_t, draws.t, condition).float()
    estimate = x_t - draws.t[:, None, None, None] * v_hat
    error = v - v_hat
    if weights.flow_full_from > 0:
        share = (draws.t / weights.flow_full_from).clamp(max=1.0)
        error = error * share[:, None, None, None]
    return LossTerm("flow", error.square().mean(), weights.flow), estimate


def window(images: Tensor, place: Tensor | None, side: int) -> Tensor:
    """The square of the images that a perceptual network sees.

    Args:
        images: [B, 3, S, S].
        place: :attr:`Draws.place`, of which the first row says where the square lies, at a multiple
            of 8 pixels; None takes the whole images.
        side: The square's side in pixels, a multiple of 8.

    Returns:
        [B, 3, side, side], or the images where they are no larger.
    """
    if place is None:
        return images
    side = min(side, images.shape[2])
    # Gathered: a slice at a drawn place would wait for the device.
    start = (place[0] * ((images.shape[2] - side) // 8 + 1)).long() * 8
    span = torch.arange(side, device=images.device)
    return images.index_select(2, start[0] + span).index_select(3, start[1] + span)


class Quantized(NamedTuple):
    """The latent that the decoder sees, [B, K, D], and what the quantizer adds to the loss."""

    latent: Tensor
    terms: tuple[LossTerm, ...]
    watched: tuple[tuple[str, Tensor], ...]


def quantize(model: FlowMo, images: Tensor, draws: Draws, weights: LossWeights) -> Quantized:
    """Encode and quantize, with straight-through gradients or the draws' posterior noise.

    There are no terms where the encoder is frozen: they could move nothing.

    Args:
        model: in training form.
        images: [B, 3, S, S] in [-1, 1].
        draws: the posterior's noise.
        weights: The weights of the quantizer's terms.
    """
    code = model.encode(images)
    # Losses in float32: the entropy's softmax at temperature 0.1 needs the bits.
    with torch.autocast(code.device.type, enabled=False):
        code = code.float()
        is_frozen = torch.is_grad_enabled() and not code.requires_grad
        if model.config.quantizer == "gaussian":
            assert draws.posterior is not None
            posterior = GaussianPosterior(code)
            latent = posterior.mean + (0.5 * posterior.log_variance).exp() * draws.posterior
            if is_frozen:
                return Quantized(latent, (), ())
            return Quantized(latent, (LossTerm("kl", posterior.kl(), weights.kl),), ())
        if is_frozen:
            return Quantized(straight_through(code), (), ())
        lfq = lfq_losses(code, model.config.group_bits)
        terms = (
            LossTerm("entropy", lfq.entropy, weights.entropy),
            LossTerm("commitment", lfq.commitment, weights.commitment),
        )
        watched = (
            ("per_sample_entropy", lfq.per_sample_entropy.detach()),
            ("codebook_entropy", lfq.codebook_entropy.detach()),
        )
        return Quantized(straight_through(code), terms, watched)
