"""The FlowMo network in its training form: encoder, quantizer, decoder (SPEC).

Shape legend: B batch, K latent tokens, D bits a token, H x W pixels.
"""

import torch
from torch import Tensor, nn

from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import ConfigError
from flowmo.model.head import Head, rate, to_pixels
from flowmo.model.patches import patchify
from flowmo.model.quantizer import GaussianPosterior, signs, straight_through
from flowmo.model.transformer import Transformer, TransformerShape


def encoder_shape(config: FlowMoConfig) -> TransformerShape:
    """Sizes of the encoder: K zero vectors of the code's width in, the code out."""
    return TransformerShape(
        transformer=config.encoder,
        img_dim=config.patch_dim,
        img_out_dim=config.patch_dim,
        txt_in_dim=config.code_dim,
        txt_out_dim=config.code_dim,
        token_positions=config.token_positions,
    )


def decoder_shape(config: FlowMoConfig) -> TransformerShape:
    """Sizes of the decoder: the condition is the code and a mask channel."""
    return TransformerShape(
        transformer=config.decoder,
        img_dim=config.patch_dim,
        img_out_dim=config.decoder_patch_dim,
        txt_in_dim=config.token_bits + 1,
        txt_out_dim=config.token_bits + 1,
        token_positions=config.token_positions,
    )


def patch_grid(images: Tensor, patch_size: int) -> tuple[int, int]:
    """The number of rows and columns of patches of images [B, 3, H, W].

    Raises:
        ConfigError: They are no such images, or H or W is not divisible by ``patch_size``.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ConfigError(
            f"images must be float [B, 3, H, W] in [-1, 1], got {images.dtype} {list(images.shape)}"
        )
    h, w = images.shape[2:]
    if h == 0 or w == 0 or h % patch_size or w % patch_size:
        raise ConfigError(
            f"image height and width must be multiples of the patch size {patch_size}, "
            f"got {h} x {w}; resize or pad the images"
        )
    return h // patch_size, w // patch_size


def with_mask(quantized: Tensor) -> Tensor:
    """Condition of the decoder: the quantized code [B, K, D] and a channel of ones."""
    return torch.cat([quantized, torch.ones_like(quantized[..., :1])], dim=-1)


class FlowMoNetwork(nn.Module):
    """Encoder and decoder with the parameter names of the published checkpoints.

    Args:
        config: The sizes.
    """

    def __init__(self, config: FlowMoConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Transformer(encoder_shape(config))
        self.decoder = Transformer(decoder_shape(config))
        self.head = Head(config.head) if config.head else None

    def encode(self, images: Tensor) -> Tensor:
        """The code of images (SPEC "Encode").

        Args:
            images: Float [B, 3, H, W] in [-1, 1].

        Returns:
            [B, K, D] ([B, K, 2D] for the Gaussian posterior), not quantized.

        Raises:
            ConfigError: The images have a wrong shape.
        """
        grid = patch_grid(images, self.config.patch_size)
        patches = patchify(images, self.config.patch_size)
        empty = patches.new_zeros(images.shape[0], self.config.code_length, self.config.code_dim)
        code: Tensor = self.encoder(patches, empty, grid, None).txt
        return code

    def quantize(self, code: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Latent that the decoder sees, [B, K, D].

        Training: signs with straight-through gradients, or a sample of the Gaussian posterior.
        Evaluation: signs, or the posterior's mean.
        """
        if self.config.quantizer == "gaussian":
            posterior = GaussianPosterior(code)
            return posterior.sample(generator) if self.training else posterior.mean
        return straight_through(code) if self.training else signs(code)

    def velocity(self, x: Tensor, t: Tensor | float, condition: Tensor) -> Tensor:
        """The decoder: velocity eps - x at x_t (SPEC "Decode").

        Args:
            x: [B, 3, H, W].
            t: One time or [B] times in [0, 1].
            condition: [B, K, D + 1] of :func:`with_mask`; all zeros is the null condition.

        Returns:
            [B, 3, H, W].

        Raises:
            ConfigError: x has a wrong shape.
        """
        grid = patch_grid(x, self.config.patch_size)
        times = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(x.shape[0])
        patches = patchify(x, self.config.patch_size)
        out = self.decoder(patches, condition, grid, times).img
        said = to_pixels(out, x, self.head, self.config.patch_size)
        if self.config.prediction == "velocity":
            return said
        return (x - said.to(x.dtype)) * rate(times)[:, None, None, None].to(x.dtype)
