"""The Prometheus rules as the Prometheus Operator's resources.

    python -m tools.prometheus_rules            # writes k8s/components/rules

Kustomize cannot put a file's content below ``spec``; the rules themselves are kept in one place,
deploy/prometheus/rules, which promtool tests.
"""

from pathlib import Path

RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules"
TARGET = Path(__file__).parents[1] / "k8s" / "components" / "rules"

_HEADER = """\
# Written by python -m tools.prometheus_rules from deploy/prometheus/rules/{name}.yml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: flowmo-{name}
  # The common stack's Prometheus takes rules and monitors with the name of its Helm release.
  labels: {{app: flowmo, release: kube-prometheus-stack}}
spec:
"""


def prometheus_rule(name: str) -> str:
    """One rules file as a PrometheusRule, its comments kept.

    Args:
        name: The file's name, without suffix.
    """
    lines = (RULES / f"{name}.yml").read_text(encoding="utf-8").splitlines()
    return _HEADER.format(name=name) + "".join(f"  {line}".rstrip() + "\n" for line in lines)


def files() -> dict[Path, str]:
    """What is written where."""
    names = sorted(path.stem for path in RULES.glob("*.yml"))
    return {TARGET / f"{name}.yaml": prometheus_rule(name) for name in names}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
