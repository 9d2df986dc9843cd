"""``python -m flowmo`` is the ``flowmo`` command."""

from flowmo.cli import main

main()
