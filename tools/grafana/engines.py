"""The engines: batches, what waits for them, and what need not be computed."""

from tools.grafana.expressions import largest, mean, quantile, rare, rate, series, total
from tools.grafana.panels import Dashboard, Panel, Query, Row

_DECODER = {"engine": "decoder"}
_GENERATOR = {"engine": "generator"}

_ROWS = rate("flowmo_batch_rows_sum", "model", "engine")
# On Ray there is no series before the first row of padding.
_FILLING = f"({rate('flowmo_batch_padding_rows_total', 'model', 'engine')} or 0 * {_ROWS})"
_PADDING = f"{_FILLING} / ({_FILLING} + {_ROWS})"

ENGINES = Dashboard(
    uid="flowmo-engines",
    title="FlowMo: engines",
    description="How batches are filled, how long they take, and what waits (docs/engine.md).",
    rows=[
        Row(
            title="Batches",
            panels=[
                Panel(
                    title="Rows a tick",
                    description="Mean rows of a decoder batch, and of its largest batch: a row is "
                    "one step of one picture. Full batches are the decoder's best throughput.",
                    unit="short",
                    queries=[
                        Query(mean("flowmo_batch_rows", "model", **_DECODER), "{{model}} mean"),
                        Query(
                            largest("flowmo_batch_slots", "model", **_DECODER), "{{model}} slots"
                        ),
                    ],
                ),
                Panel(
                    title="Ticks by their rows",
                    description="Decoder batches a second, by how many rows they had at most.",
                    unit="ops",
                    queries=[Query(rate("flowmo_batch_rows_bucket", "le", **_DECODER), "{{le}}")],
                    kind="heatmap",
                ),
                Panel(
                    title="Rows computed only to fill a batch",
                    description="Share of padding in what is computed.",
                    unit="percentunit",
                    queries=[
                        Query(
                            _PADDING,
                            "{{model}} {{engine}}",
                        )
                    ],
                    most=1,
                ),
                Panel(
                    title="Duration of a tick",
                    description="Of decoder batches of all sizes.",
                    unit="s",
                    queries=[
                        Query(
                            quantile(share, "flowmo_step_duration_seconds", "model"),
                            f"{{{{model}}}} p{round(100 * share)}",
                        )
                        for share in (0.5, 0.95)
                    ],
                ),
                Panel(
                    title="Steps of pictures",
                    description="Rows of decoder batches a second: the decoder's throughput.",
                    unit="ops",
                    queries=[
                        Query(rate("flowmo_batch_rows_sum", "model", **_DECODER), "{{model}}")
                    ],
                ),
                Panel(
                    title="Decoders at work",
                    description="Share of time that devices spend on decoder batches, mean of all "
                    "devices, over five minutes. Above 0.8 there should be more of them.",
                    unit="percentunit",
                    queries=[
                        Query('flowmo:decoder_busy:ratio_rate5m{job=~"$job"}', "{{job}} {{model}}")
                    ],
                    limits=(0.8, 0.9),
                    most=1,
                ),
            ],
        ),
        Row(
            title="Priors",
            panels=[
                Panel(
                    title="Steps of generated images",
                    description="Rows of generator batches a second: a row is one step of one "
                    "image, and a guided step is two. The prior's throughput.",
                    unit="ops",
                    queries=[
                        Query(
                            rate("flowmo_batch_rows_sum", "model", **_GENERATOR),
                            "{{model}}",
                            needs="prior",
                        )
                    ],
                ),
                Panel(
                    title="Rows a generator's tick",
                    description="Mean rows of a generator batch, and of its largest batch.",
                    unit="short",
                    queries=[
                        Query(
                            mean("flowmo_batch_rows", "model", **_GENERATOR),
                            "{{model}} mean",
                            needs="prior",
                        ),
                        Query(
                            largest("flowmo_batch_slots", "model", **_GENERATOR),
                            "{{model}} slots",
                            needs="prior",
                        ),
                    ],
                ),
                Panel(
                    title="Time to generate",
                    description="The stage generate: of a request's tokens, however many images "
                    "it asks for, decoding left out.",
                    unit="s",
                    queries=[
                        Query(
                            quantile(
                                share, "flowmo_stage_duration_seconds", "model", stage="generate"
                            ),
                            f"{{{{model}}}} p{round(100 * share)}",
                            needs="prior",
                        )
                        for share in (0.5, 0.95)
                    ],
                ),
            ],
        ),
        Row(
            title="What waits",
            panels=[
                Panel(
                    title="Pictures inside",
                    description="That wait for a batch or are in one, in all engines.",
                    unit="short",
                    queries=[Query(total("flowmo_queue_depth", "model"), "{{model}}")],
                ),
                Panel(
                    title="Work inside",
                    description="Time until all that is inside would be done, of the engine with "
                    "most. Autoscaling by work follows this.",
                    unit="s",
                    queries=[Query(largest("flowmo_backlog_seconds", "model"), "{{model}}")],
                ),
                Panel(
                    title="Wait for the first batch",
                    description="The stage queue, of encoding and of decoding.",
                    unit="s",
                    queries=[
                        Query(
                            quantile(
                                share, "flowmo_stage_duration_seconds", "model", stage="queue"
                            ),
                            f"{{{{model}}}} p{round(100 * share)}",
                        )
                        for share in (0.5, 0.95)
                    ],
                ),
                Panel(
                    title="Age of the running batch",
                    description="Of the slowest device. Above 60 s it does not answer any more.",
                    unit="s",
                    queries=[Query(largest("flowmo_device_busy_seconds", "model"), "{{model}}")],
                    limits=(30, 60),
                ),
            ],
        ),
        Row(
            title="Not computed, or not well",
            panels=[
                Panel(
                    title="Steps saved",
                    description="Sampler steps a second that need not be made: their client has "
                    "left, or allowed fewer (degrade).",
                    unit="ops",
                    queries=[
                        Query(
                            rare("flowmo_steps_saved_total", "model", "reason"),
                            "{{model}} {{reason}}",
                        )
                    ],
                ),
                Panel(
                    title="Refused by engines",
                    description="Pictures a second that an engine did not take.",
                    unit="ops",
                    queries=[
                        Query(
                            rare("flowmo_engine_refused_total", "engine", "reason"),
                            "{{engine}} {{reason}}",
                        )
                    ],
                ),
                Panel(
                    title="Cancelled and failed",
                    description="Pictures a second that nobody waited for any more, and whose "
                    "batch failed on the device.",
                    unit="ops",
                    queries=[
                        Query(
                            rare("flowmo_engine_cancelled_total", "engine"), "{{engine}} cancelled"
                        ),
                        Query(rare("flowmo_engine_failed_total", "engine"), "{{engine}} failed"),
                    ],
                ),
                Panel(
                    title="Computed by PyTorch instead",
                    description="Processes or replicas in which what was asked for is not to be "
                    "had: slower, and right.",
                    unit="short",
                    queries=[
                        Query(f"sum by (model) ({series('flowmo_runner_fallback')})", "{{model}}")
                    ],
                    limits=(1, 1),
                ),
            ],
        ),
    ],
)
