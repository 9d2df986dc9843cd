"""PromQL for series that are called flowmo_… in one process and ray_flowmo_… on Ray."""


def series(name: str, **labels: str) -> str:
    """A selector of both forms, in the jobs that the page shows.

    Args:
        name: The name of the series, without ``ray_``.
        labels: patterns that must match.
    """
    matchers = "".join(f', {label}=~"{pattern}"' for label, pattern in labels.items())
    return f'{{__name__=~"(ray_)?{name}", job=~"$job"{matchers}}}'


def rate(name: str, *by: str, **labels: str) -> str:
    """Increase a second of counters, summed by some labels."""
    return f"sum by ({', '.join(by)}) (rate({series(name, **labels)}[$__rate_interval]))"


def rare(name: str, *by: str, **labels: str) -> str:
    """The same of what may never have happened: 0 instead of nothing."""
    return f"{rate(name, *by, **labels)} or on () vector(0)"


def mean(name: str, *by: str, **labels: str) -> str:
    """Mean of a histogram's values."""
    return f"{rate(f'{name}_sum', *by, **labels)} / {rate(f'{name}_count', *by, **labels)}"


def quantile(share: float, name: str, *by: str, **labels: str) -> str:
    """A quantile of a histogram's values."""
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', 'le', *by, **labels)})"


def largest(name: str, *by: str, **labels: str) -> str:
    """Largest of gauges, by some labels."""
    return f"max by ({', '.join(by)}) ({series(name, **labels)})"


def total(name: str, *by: str, **labels: str) -> str:
    """Sum of gauges, by some labels."""
    return f"sum by ({', '.join(by)}) ({series(name, **labels)})"
