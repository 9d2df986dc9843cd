"""One step of the decoder by every way there is, beside the plain float32 network, in one run.

    python -m benchmarks.decode_speed checkpoints/tiny small --out OUT

The same weights and inputs for all, timed in turns; OUT.json has medians with their spread, errors
against the plain network, and the environment, OUT.png the speeds. ``--baseline module:function``
adds an outside implementation (see :func:`benchmarks.speed.variants.outside`).
"""

from benchmarks.speed.command import run

if __name__ == "__main__":
    run("decoder")
