"""Decodes of a preset estimated from the counts of its blocks, by the model of waves."""

from collections.abc import Sequence
from typing import Any

from benchmarks.generated_code.waves import CUDNN, FLASH, Form, decode_seconds, forward_seconds
from flowmo.model.config import FlowMoConfig, SamplerConfig

BATCHES = (1, 16)
# What is estimated: the switches, who computes attention, whether txt is beside img, the sampler.
MERGED = SamplerConfig(schedule="merged", steps=20)
VARIANTS = (
    ("none", CUDNN, False, SamplerConfig()),
    ("all", CUDNN, False, SamplerConfig()),
    ("all", FLASH, False, SamplerConfig()),
    ("all", FLASH, True, SamplerConfig()),
    ("all", FLASH, True, MERGED),
    ("all,fp8-rowwise", CUDNN, False, SamplerConfig()),
    ("all,fp8-rowwise", FLASH, False, SamplerConfig()),
    ("all,fp8-rowwise", FLASH, True, SamplerConfig()),
    ("all,fp8-rowwise", FLASH, True, MERGED),
)


def estimates(config: FlowMoConfig, blocks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Estimate each variant's decode at each batch size.

    Args:
        config: The model.
        blocks: Counts of blocks, the decoder's at each batch size and twice that among them.
    """
    units = {
        (block["kernels"], block["rows"]): block["units"]
        for block in blocks
        if block["half"] == "decoder"
    }
    found = []
    for switches, attention, beside, sampler in VARIANTS:
        for rows in BATCHES:
            forms = [
                Form(
                    units=units[switches, count],
                    attention=attention,
                    split_attention="all" in switches,
                    txt_beside=beside,
                    fp8="fp8-rowwise" in switches,
                )
                for count in (rows, 2 * rows)
            ]
            seconds = decode_seconds(config, rows, forms, sampler)
            found.append(
                {
                    "kernels": switches,
                    "attention": "flash" if attention is FLASH else "cudnn",
                    "txt_beside": beside,
                    "schedule": sampler.schedule,
                    "rows": rows,
                    "forward_seconds": forward_seconds(config, rows, forms[0]),
                    "decode_seconds": seconds,
                    "images_a_second": rows / seconds,
                }
            )
    return found
