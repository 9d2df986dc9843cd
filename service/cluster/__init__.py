"""The same gateway and engines as replicas on a Ray cluster (docs/cluster.md)."""
