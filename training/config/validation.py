"""Held-out samples while training."""

from dataclasses import dataclass

from flowmo.training.config.checks import at_least, require


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """Measuring the averaged weights on held-out samples, and what follows from it.

    Tokenizers reconstruct pictures with their own sampler; results are rounded to 8 bits. The best
    weights so far are kept in the run's ``best`` folder.

    Args:
        interval: The number of steps between validations; 0 for none.
        paths: Samples that are never trained on; empty means the six held-out photographs.
        count: The number of samples, evenly spaced over ``paths``.
        metric: What "best" means, one of the task's ``validation_metrics``; for tokenizers
            ``psnr`` (dB), ``ssim``, or, lower being better, ``lpips`` (LPIPS-VGG), ``rfid``
            (InceptionV3, of 2,049 samples at least), ``vgg-edge`` or ``efficientnet-lite0``
            (distances of features).
        lpips_weights: The source of the LPIPS metric's weights, as in ``perceptual.weights``.
        network_weights: Likewise of the metrics ``rfid``, ``vgg-edge`` and ``efficientnet-lite0``.
        patience: The run stops after so many validations in a row without a better one; None never
            does.

    Raises:
        ConfigError: A value is out of its range.
    """

    interval: int = 0
    paths: tuple[str, ...] = ()
    count: int = 64
    metric: str = "psnr"
    lpips_weights: str = "library"
    network_weights: str = "library"
    patience: int | None = None

    def __post_init__(self) -> None:
        at_least(0, interval=self.interval)
        at_least(1, count=self.count)
        require(
            self.patience is None or (self.patience >= 1 and self.interval > 0),
            f"validation.patience must be at least 1 and needs a validation.interval, "
            f"got patience {self.patience!r} and interval {self.interval}",
        )
