"""The objectives: what is left of their budgets, and how fast it goes."""

from tools.grafana.panels import Dashboard, Panel, Query, Row

_WINDOWS = ("5m", "1h", "6h", "3d")


def _row(title: str, slo: str, indicator: str, what: str) -> Row:
    budget = f"(1 - scalar(flowmo:{slo}:objective))"

    def ratio(window: str) -> str:
        return f'flowmo:{indicator}:ratio_rate{window}{{job=~"$job"}}'

    return Row(
        title=title,
        panels=[
            Panel(
                title=f"{title}: three days",
                description=f"Share of requests that were well, beside the objective. {what}",
                unit="percentunit",
                queries=[
                    Query(f"1 - {ratio('3d')}", "{{job}}"),
                    Query(f"flowmo:{slo}:objective", "objective"),
                ],
                kind="stat",
                width=6,
            ),
            Panel(
                title=f"{title}: budget used",
                description="Of the errors that three days may have, the share that there were. "
                "Above 1 the objective is missed.",
                unit="percentunit",
                queries=[Query(f"{ratio('3d')} / {budget}", "{{job}}")],
                kind="stat",
                width=6,
                limits=(0.8, 1),
            ),
            Panel(
                title=f"{title}: burn rate",
                description="How many times faster than allowed the budget is used, by window. "
                "Pages come at 14.4 (1h and 5m) and 6 (6h and 30m), a ticket at 1 (3d and 6h).",
                unit="short",
                queries=[
                    Query(f"{ratio(window)} / {budget}", f"{{{{job}}}} {window}")
                    for window in _WINDOWS
                ],
                width=12,
                limits=(6, 14.4),
            ),
        ],
    )


SLO = Dashboard(
    uid="flowmo-slo",
    title="FlowMo: objectives",
    description="Availability and latency against their objectives (docs/decisions/0012).",
    rows=[
        _row(
            "Availability",
            "availability",
            "failed",
            "Well is 2xx, not well is 5xx; 4xx and sheds do not count.",
        ),
        _row(
            "Latency",
            "latency",
            "detokenized_late",
            "Well is an answer of /v1/detokenize within 1 s.",
        ),
        Row(
            title="Beside them",
            panels=[
                Panel(
                    title="Answered and failed",
                    description="Requests a second over five minutes; on Ray as the proxies "
                    "count them.",
                    unit="reqps",
                    queries=[
                        Query('flowmo:answered:rate5m{job=~"$job"}', "{{job}} answered"),
                        Query('flowmo:failed:rate5m{job=~"$job"}', "{{job}} failed"),
                    ],
                ),
                Panel(
                    title="Refused",
                    description="Not an error of availability: the client learns when to come "
                    "back. It has alerts of its own.",
                    unit="reqps",
                    queries=[Query('flowmo:shed:rate5m{job=~"$job"}', "{{job}}")],
                ),
                Panel(
                    title="Alerts",
                    description="That fire now; docs/runbook.md has each.",
                    unit="short",
                    queries=[
                        Query(
                            'sum by (alertname) (ALERTS{alertname=~"Flowmo.*", '
                            'alertstate="firing"}) or on () vector(0)',
                            "{{alertname}}",
                        )
                    ],
                ),
            ],
        ),
    ],
)
