"""The service as its clients see it."""

from tools.grafana.expressions import largest, mean, quantile, rare, rate, series, total
from tools.grafana.panels import Dashboard, Panel, Query, Row

_REQUESTS = "flowmo_request_duration_seconds"
_DETOKENIZE = {"route": "/v1/detokenize", "status": "200"}

OVERVIEW = Dashboard(
    uid="flowmo-overview",
    title="FlowMo: service",
    description="What is asked for, how it is answered, and where the time goes.",
    rows=[
        Row(
            title="Answers",
            panels=[
                Panel(
                    title="Answers by status",
                    description="POST requests answered a second. 429 are sheds, 5xx are failures.",
                    unit="reqps",
                    queries=[
                        Query(rate(f"{_REQUESTS}_count", "status", method="POST"), "{{status}}")
                    ],
                    stacked=True,
                ),
                Panel(
                    title="Answers by route",
                    description="POST requests answered a second.",
                    unit="reqps",
                    queries=[
                        Query(rate(f"{_REQUESTS}_count", "route", method="POST"), "{{route}}")
                    ],
                    stacked=True,
                ),
                Panel(
                    title="Pictures",
                    description="Pictures encoded to tokens and decoded from tokens a second. "
                    "Those in the cache, or shared with another request, are not made again.",
                    unit="ops",
                    queries=[
                        Query(
                            rate(
                                "flowmo_stage_duration_seconds_count", "model", "stage", stage=stage
                            ),
                            f"{{{{model}}}} {name}",
                        )
                        for stage, name in (("encode", "encoded"), ("sample", "decoded"))
                    ],
                ),
                Panel(
                    title="Latency of detokenize",
                    description="From the request's first byte to the answer's last, of answers "
                    "with 200. The objective is 95 % within 1 s.",
                    unit="s",
                    queries=[
                        Query(quantile(share, _REQUESTS, **_DETOKENIZE), f"p{round(100 * share)}")
                        for share in (0.5, 0.95, 0.99)
                    ],
                    limits=(1, 1),
                    exemplars=True,
                ),
                Panel(
                    title="Latency by route, p95",
                    description="Of answers with 200.",
                    unit="s",
                    queries=[
                        Query(
                            quantile(0.95, _REQUESTS, "route", method="POST", status="200"),
                            "{{route}}",
                        )
                    ],
                ),
                Panel(
                    title="Where the time goes",
                    description="Mean seconds of each stage of a request, as in Server-Timing. "
                    "sample is all steps of a decode, with the waiting between them.",
                    unit="s",
                    queries=[Query(mean("flowmo_stage_duration_seconds", "stage"), "{{stage}}")],
                    stacked=True,
                ),
                Panel(
                    title="Uploads, p95",
                    description="From a request's headers to its body's last byte: slow clients "
                    "and networks.",
                    unit="s",
                    queries=[
                        Query(
                            quantile(0.95, "flowmo_upload_duration_seconds", "route"), "{{route}}"
                        )
                    ],
                    exemplars=True,
                ),
            ],
        ),
        Row(
            title="Refusals and problems",
            panels=[
                Panel(
                    title="Refused for want of capacity",
                    description="Share of requests answered 429 queue-full or "
                    "deadline-unreachable, over five minutes.",
                    unit="percentunit",
                    queries=[Query('flowmo:shed:ratio_rate5m{job=~"$job"}', "{{job}}")],
                    limits=(0.05, 0.5),
                    most=1,
                ),
                Panel(
                    title="Problems by code",
                    description="Requests answered with a problem a second; docs/api.md has "
                    "the codes.",
                    unit="reqps",
                    queries=[Query(rare("flowmo_errors_total", "code"), "{{code}}")],
                    stacked=True,
                ),
                Panel(
                    title="Keys",
                    description="Requests a second by API key: admitted, limited by the key's own "
                    "rate or concurrency, or with an unknown key.",
                    unit="reqps",
                    queries=[
                        Query(
                            rate("flowmo_key_requests_total", "key", "outcome"),
                            "{{key}} {{outcome}}",
                            needs="keys",
                        )
                    ],
                ),
            ],
        ),
        Row(
            title="Inside",
            panels=[
                Panel(
                    title="Requests inside",
                    description="Being answered, admitted, and how many are admitted at most.",
                    unit="short",
                    queries=[
                        Query(total("flowmo_requests_in_flight", "job"), "being answered"),
                        Query(total("flowmo_requests_admitted", "job"), "admitted"),
                        Query(total("flowmo_requests_capacity", "job"), "capacity"),
                    ],
                ),
                Panel(
                    title="Bodies inside",
                    description="Bytes of the bodies of admitted requests, and of cache entries.",
                    unit="bytes",
                    queries=[
                        Query(total("flowmo_requests_admitted_bytes", "job"), "bodies"),
                        Query(total("flowmo_cache_bytes", "job"), "cache entries"),
                    ],
                ),
                Panel(
                    title="Memory",
                    description="Resident memory of each process; on Ray, of all replicas of a "
                    "deployment on a node.",
                    unit="bytes",
                    queries=[
                        Query('process_resident_memory_bytes{job=~"$job"}', "{{instance}}"),
                        Query(
                            "sum by (instance, Component) (ray_component_rss_bytes"
                            '{job=~"$job", Component=~"ray::ServeReplica.*", pid=""})',
                            "{{instance}} {{Component}}",
                            needs="ray",
                        ),
                    ],
                ),
                Panel(
                    title="Picture cache",
                    description="Look-ups a second: hit found an entry, shared waited for a "
                    "picture that was being made for another request, miss computed it.",
                    unit="ops",
                    queries=[Query(rate("flowmo_cache_requests_total", "outcome"), "{{outcome}}")],
                    stacked=True,
                ),
                Panel(
                    title="Ready",
                    description="1 where a model takes requests.",
                    unit="short",
                    queries=[
                        Query(
                            f"min by (job, model, instance) ({series('flowmo_ready')})",
                            "{{model}} {{instance}}",
                        )
                    ],
                    most=1,
                ),
                Panel(
                    title="What is served",
                    description="Servers or gateways by what they serve.",
                    unit="short",
                    queries=[
                        Query(
                            f"count by (model, fingerprint, device, dtype, runner) "
                            f"({series('flowmo_model_info')} == 1)",
                            "{{model}} {{runner}} {{dtype}} {{device}} {{fingerprint}}",
                        ),
                        Query(
                            largest("flowmo_build_info", "version", "python"),
                            "flowmo-serve {{version}}, Python {{python}}",
                        ),
                    ],
                    kind="stat",
                ),
            ],
        ),
    ],
)
