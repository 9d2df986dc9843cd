"""Ray's replicas, and the GPUs of the machines."""

from tools.grafana.expressions import rate, series, total
from tools.grafana.panels import Dashboard, Panel, Query, Row, Unit

_SERVE = '{job=~"$job", application="flowmo"}'


def _ray(title: str, unit: Unit, description: str, *queries: tuple[str, str]) -> Panel:
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=[Query(expression, legend, needs="ray") for expression, legend in queries],
    )


def _gpu(title: str, unit: Unit, description: str, *queries: tuple[str, str]) -> Panel:
    return Panel(
        title=title,
        description=f"{description} From NVIDIA's DCGM exporter.",
        unit=unit,
        queries=[Query(expression, legend, needs="gpu") for expression, legend in queries],
    )


def _startup(what: str) -> str:
    return f"sum by (deployment) (ray_serve_replica_startup_latency_ms_{what}{_SERVE})"


_PROXIES = (
    f"sum by (status_code) (rate(ray_serve_num_http_requests_total{_SERVE}[$__rate_interval]))"
)
_GPU = "{{Hostname}} {{gpu}}"

REPLICAS = Dashboard(
    uid="flowmo-replicas",
    title="FlowMo: replicas and GPUs",
    description="Replicas on Ray, how they scale, and what their GPUs do.",
    rows=[
        Row(
            title="Cost",
            panels=[
                Panel(
                    title="GPUs",
                    description="That processes of the service hold memory on.",
                    unit="short",
                    queries=[Query('flowmo:gpus:count{job=~"$job"}', "{{job}}", needs="gpu")],
                ),
                Panel(
                    title="Cost of a picture",
                    description="Of one that is encoded or decoded, over an hour, in the currency "
                    "of flowmo:gpu_hour:price (recording.yml); GPU hours where that is 1.",
                    unit="short",
                    queries=[
                        Query('flowmo:cost:per_picture1h{job=~"$job"}', "{{job}}", needs="gpu")
                    ],
                ),
                Panel(
                    title="Cost of a megapixel",
                    description="As of a picture; those of many tiles cost more than small ones.",
                    unit="short",
                    queries=[
                        Query('flowmo:cost:per_megapixel1h{job=~"$job"}', "{{job}}", needs="gpu")
                    ],
                ),
            ],
        ),
        Row(
            title="Replicas on Ray",
            panels=[
                _ray(
                    "Replicas",
                    "short",
                    "Healthy ones, those that autoscaling has asked for, and what it would ask "
                    "for without limits.",
                    ('flowmo:replicas_healthy:sum{job=~"$job"}', "{{deployment}} healthy"),
                    ('flowmo:replicas_target:max{job=~"$job"}', "{{deployment}} target"),
                    ('flowmo:replicas_desired:max{job=~"$job"}', "{{deployment}} desired"),
                ),
                _ray(
                    "Requests inside replicas",
                    "short",
                    "By deployment.",
                    (
                        f"sum by (deployment) (ray_serve_replica_processing_queries{_SERVE})",
                        "{{deployment}}",
                    ),
                ),
                _ray(
                    "Requests that wait for a replica",
                    "short",
                    "At the proxies and gateways, because every replica has as many as it takes.",
                    (
                        f"sum by (deployment) (ray_serve_deployment_queued_queries{_SERVE})",
                        "{{deployment}}",
                    ),
                ),
                _ray(
                    "Work by replica",
                    "s",
                    "Time until all that is inside an encoder or decoder would be done.",
                    (
                        f"max by (deployment, replica) ({series('flowmo_backlog_seconds')})",
                        "{{deployment}} {{replica}}",
                    ),
                ),
                _ray(
                    "Decoders at work, by replica",
                    "percentunit",
                    "Share of time that each decoder's device spends on batches.",
                    (
                        rate("flowmo_step_duration_seconds_sum", "deployment", "replica"),
                        "{{deployment}} {{replica}}",
                    ),
                ),
                _ray(
                    "Starts",
                    "short",
                    "Replicas that have started in the last 30 minutes, and how long they took, "
                    "mean since the controller started.",
                    ('flowmo:replica_starts:increase30m{job=~"$job"}', "{{deployment}} starts"),
                    (
                        f"{_startup('sum')} / {_startup('count')} / 1000",
                        "{{deployment}} seconds",
                    ),
                ),
                _ray(
                    "Memory of nodes",
                    "percentunit",
                    "Share in use.",
                    (
                        'ray_node_mem_used{job=~"$job"} / ray_node_mem_total{job=~"$job"}',
                        "{{instance}}",
                    ),
                ),
                _ray(
                    "Processors of nodes",
                    "percent",
                    "Share in use.",
                    ('ray_node_cpu_utilization{job=~"$job"}', "{{instance}}"),
                ),
                _ray(
                    "Answers of the proxies",
                    "reqps",
                    "By status. They also count what a gateway that has died did not answer.",
                    (
                        _PROXIES,
                        "{{status_code}}",
                    ),
                ),
            ],
        ),
        Row(
            title="GPUs",
            panels=[
                _gpu(
                    "Tensor cores",
                    "percentunit",
                    "Share of cycles in which they work. A decoder at its best is near 0.5.",
                    ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", _GPU),
                ),
                _gpu(
                    "Busy",
                    "percent",
                    "Share of time in which any kernel runs: 100 does not mean full.",
                    ("DCGM_FI_DEV_GPU_UTIL", _GPU),
                ),
                _gpu(
                    "Memory in use",
                    "mbytes",
                    "Used, and all there is.",
                    ("DCGM_FI_DEV_FB_USED", f"{_GPU} used"),
                    ("DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE", f"{_GPU} all"),
                ),
                Panel(
                    title="Memory of PyTorch",
                    description="Held by the service's processes on each GPU: by tensors, and with "
                    "what is kept for those to come. TensorRT's is beside it.",
                    unit="bytes",
                    queries=[
                        Query(
                            total("flowmo_gpu_memory_bytes", "gpu", "kind"),
                            "{{gpu}} {{kind}}",
                            needs="gpu",
                        )
                    ],
                ),
                _gpu(
                    "Memory traffic",
                    "percentunit",
                    "Share of cycles in which the memory's interface sends or receives.",
                    ("DCGM_FI_PROF_DRAM_ACTIVE", _GPU),
                ),
                _gpu("Power", "watt", "Drawn by each GPU.", ("DCGM_FI_DEV_POWER_USAGE", _GPU)),
                _gpu(
                    "Clock",
                    "hertz",
                    "Of the multiprocessors. It falls when a GPU is too hot or draws too much.",
                    ("DCGM_FI_DEV_SM_CLOCK * 1e6", _GPU),
                ),
                _gpu("Temperature", "celsius", "Of each GPU.", ("DCGM_FI_DEV_GPU_TEMP", _GPU)),
                _gpu(
                    "Last Xid error",
                    "short",
                    "0 is none; NVIDIA's documentation explains the numbers.",
                    ("DCGM_FI_DEV_XID_ERRORS", _GPU),
                ),
            ],
        ),
    ],
)
