"""Command line of :func:`flowmo.training.data.demo.build_demo_data`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args

from flowmo.model.errors import FlowMoError
from flowmo.training.data.demo.build import build_demo_data
from flowmo.training.data.demo.manifest import DemoDataConfig, Form


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and build; returns the exit status."""
    default = {field.name: field.default for field in fields(DemoDataConfig)}
    parser = argparse.ArgumentParser(
        prog="python -m flowmo.training.data.demo",
        description="Make a data set of photographs from Debian packages (about 1.5 GB to fetch).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--size", type=int, default=default["size"], help="side of a crop, pixels")
    parser.add_argument(
        "--form",
        choices=get_args(Form),
        default=default["form"],
        help="whole pictures, of which training cuts crops of SIZE anew each time, or fixed crops",
    )
    parser.add_argument("--quality", type=int, default=default["quality"], help="of WebP, 0 to 100")
    parser.add_argument(
        "--part-bytes", type=int, default=default["part_bytes"], help="largest size of a tar"
    )
    parser.add_argument("--seed", type=int, default=default["seed"], help="of all random choices")
    parser.add_argument("--cache", type=Path, help="folder of package files (OUT/packages if None)")
    parser.add_argument(
        "--strict", action="store_true", help="stop if a package cannot be had, do not skip it"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        build_demo_data(
            options.out,
            DemoDataConfig(
                size=options.size,
                form=options.form,
                quality=options.quality,
                part_bytes=options.part_bytes,
                seed=options.seed,
            ),
            cache=options.cache,
            strict=options.strict,
            workers=options.workers,
        )
    except FlowMoError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped; packages fetched so far are kept\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
