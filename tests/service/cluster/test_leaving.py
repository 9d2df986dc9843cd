"""What a node does before its pod ends; benchmarks/chaos runs it on a real cluster."""

from pathlib import Path

from flowmo.service.cluster.leaving import LEAST_SECONDS, Node, leave, nodes, serving

NODE = Node(pid=7, id="ab12", address="10.0.0.1:6379")


def process(proc: Path, pid: int, parent: int, command: str) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "cmdline").write_text(command)
    (folder / "stat").write_text(f"{pid} (name (of) it) S {parent} 1 1")


def test_a_node_and_what_serves_on_it_are_found_in_proc(tmp_path: Path) -> None:
    raylet = ["/x/raylet/raylet", "--node_id=ab12", "--gcs-address=10.0.0.1:6379"]
    raylet += ["--dashboard_agent_command=python --gcs-address=10.0.0.1:6379 --node_id=no -u", ""]
    process(tmp_path, 7, 1, "\0".join(raylet))
    process(tmp_path, 8, 7, "ray::ServeReplica:flowmo:decoder-lo\0")
    process(tmp_path, 9, 7, "ray::ProxyActor\0")
    process(tmp_path, 10, 7, "ray::IDLE\0")
    process(tmp_path, 11, 99, "ray::ServeReplica:flowmo:decoder-lo\0")  # of another node
    (tmp_path / "12").mkdir()  # has ended
    (tmp_path / "self").mkdir()
    assert list(nodes(tmp_path)) == [NODE]
    assert sorted(serving(NODE, tmp_path)) == [
        "ray::ProxyActor",
        "ray::ServeReplica:flowmo:decoder-lo",
    ]


def leaving(left: list[list[str]], seconds: float) -> tuple[bool, float, list[float]]:
    """Whether nothing is left, how long it took, and what was announced."""
    now, told = 0.0, list[float]()

    def sleep(wait: float) -> None:
        nonlocal now
        now += wait

    def still(_: Node) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    done = leave(
        NODE, seconds, still=still, announce=lambda _, s: told.append(s),
        clock=lambda: now, sleep=sleep,
    )  # fmt: skip
    return done, now, told


def test_it_waits_for_the_last_replica_and_no_longer() -> None:
    assert leaving([["replica"]] * 20 + [[]], 100) == (True, LEAST_SECONDS + 10, [100])


def test_it_waits_until_load_balancers_know_even_if_nothing_serves() -> None:
    assert leaving([[]], 100) == (True, LEAST_SECONDS, [100])


def test_it_gives_up_when_the_time_is_over() -> None:
    assert leaving([["replica"]], 30) == (False, 30, [30])
