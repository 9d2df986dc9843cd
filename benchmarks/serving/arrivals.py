"""When requests are sent: a Poisson process, drawn before anything is measured."""

import numpy as np


def poisson_arrivals(rate: float, seconds: float, *, seed: int) -> tuple[float, ...]:
    """Instants of a Poisson process in [0, seconds), ascending.

    Args:
        rate: expected arrivals a second.
        seconds: length of the process.
        seed: the same seed, rate and length give the same instants.

    Raises:
        ValueError: a rate or a length that is not positive.
    """
    if not rate > 0 or not seconds > 0:
        raise ValueError(
            f"a rate and a length above 0 are needed, got {rate} a second for {seconds} s"
        )
    generator = np.random.default_rng(seed)
    arrivals: list[float] = []
    now = generator.exponential(1 / rate)
    while now < seconds:
        arrivals.append(now)
        now += generator.exponential(1 / rate)
    return tuple(arrivals)
