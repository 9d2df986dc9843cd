#!/usr/bin/env bash
# The manifests on a real API server with the real operator: a kind cluster on this machine (make k8s-test).
# Needs docker, kind, kubectl and helm, some 12 GB of memory and 20 GB of disk. Leaves nothing behind;
# KEEP=1 leaves the cluster. Written to be run; whether it was is said in docs/kubernetes.md.
set -euo pipefail
cd "$(dirname "$0")/.."

CLUSTER=${CLUSTER:-flowmo-test}
KUBERAY=${KUBERAY:-1.7.0}
VERSION=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' flowmo/_version.py)
IMAGE=flowmo-serve:$VERSION
FLOWMO=${FLOWMO:-.venv/bin/flowmo}

say() { printf '\n=== %s\n' "$*"; }
kube() { kubectl --context "kind-$CLUSTER" "$@"; }

for tool in docker kind kubectl helm; do
    command -v "$tool" >/dev/null || { echo "k8s-test needs $tool" >&2; exit 1; }
done
docker info >/dev/null || { echo "k8s-test needs a Docker daemon that answers" >&2; exit 1; }

finish() {
    status=$?
    if [ "$status" != 0 ]; then
        kube -n flowmo get all,rayservice,raycluster,events || true
        kube -n flowmo describe pods | tail -n 200 || true
    fi
    [ -n "${PORT:-}" ] && kill "$PORT" 2>/dev/null || true
    [ -n "${KEEP:-}" ] || kind delete cluster --name "$CLUSTER"
    exit "$status"
}
trap finish EXIT

say "the image, and a cluster that has it"
docker build -t "$IMAGE" --build-arg BASE=python:3.12-slim \
    --build-arg EXTRAS=serve,train,train-ray,export,grpc,tracing,s3,gcs,redis,zstd .
kind create cluster --name "$CLUSTER" --wait 120s
kind load docker-image "$IMAGE" --name "$CLUSTER"

say "KubeRay $KUBERAY"
helm repo add kuberay https://ray-project.github.io/kuberay-helm/ >/dev/null
helm --kube-context "kind-$CLUSTER" install kuberay-operator kuberay/kuberay-operator \
    --version "$KUBERAY" --namespace kuberay-system --create-namespace --wait

say "keys and secrets"
kube create namespace flowmo --dry-run=client -o yaml | kube apply -f -
"$FLOWMO" keys new tester >/tmp/flowmo-keys.toml
kube -n flowmo create secret generic flowmo-api-keys --from-file=keys.toml=/tmp/flowmo-keys.toml
kube -n flowmo create secret generic flowmo-ray-token --from-literal=auth_token="$(openssl rand -hex 32)"
kube -n flowmo create secret generic flowmo-redis --from-literal=password="$(openssl rand -hex 32)"

say "the API server takes every manifest that it knows"
for overlay in single overlays/cpu-dev overlays/h100 overlays/h100-prior overlays/h100-next; do
    # Kinds of the Prometheus Operator are not installed here.
    kube kustomize "k8s/$overlay" | awk 'BEGIN { RS = "---\n"; ORS = "---\n" }
        !/kind: (PodMonitor|PrometheusRule)/' >/tmp/flowmo-rendered.yaml
    kube apply --server-side --dry-run=server --validate=strict -f /tmp/flowmo-rendered.yaml
done

say "one process a pod"
kube kustomize k8s/single | awk 'BEGIN { RS = "---\n"; ORS = "---\n" }
    !/kind: (PodMonitor|PrometheusRule)/' | kube apply -f -
kube -n flowmo rollout status deployment/flowmo --timeout=300s
kube -n flowmo delete deployment/flowmo horizontalpodautoscaler/flowmo --wait

say "the Ray cluster in small"
kube apply -k k8s/overlays/cpu-dev
kube -n flowmo wait rayservice/flowmo --for=condition=Ready --timeout=900s
kube -n flowmo wait pod -l app=flowmo --for=condition=Ready --timeout=300s
kube -n flowmo get endpointslices -l kubernetes.io/service-name=flowmo-serve-svc
kube -n flowmo port-forward service/flowmo-serve-svc 8000 &
PORT=$!
for _ in $(seq 60); do
    curl --silent --fail http://127.0.0.1:8000/readyz >/dev/null && break
    sleep 1
done
"$FLOWMO" demo --url http://127.0.0.1:8000 --out /tmp/flowmo-demo

say "the access log of a request is in the log of a pod"
kube -n flowmo logs -l part=gateway --tail=-1 | grep '"logger": "flowmo.access"' | head -n 3

say "a worker that goes loses nothing"
pod=$(kube -n flowmo get pod -l part=decoder -o name | head -n 1)
kube -n flowmo delete "$pod" --wait=false
"$FLOWMO" demo --url http://127.0.0.1:8000 --out /tmp/flowmo-demo
say "done"
