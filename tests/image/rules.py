"""What must hold of the Dockerfile, told from its text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BUILD_TOOLS = ("gcc", "g++", "build-essential", "git", "python3-dev", "python3-venv", "pip")


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM and what follows it; ``steps`` are (instruction, the rest) in their order."""

    name: str
    base: str
    steps: tuple[tuple[str, str], ...]

    def of(self, instruction: str) -> list[str]:
        """The rest of all lines with this instruction."""
        return [rest for name, rest in self.steps if name == instruction]


def read_stages(text: str) -> dict[str, Stage]:
    """The stages by name, the last one named ``""`` if it has none, in their order."""
    text = re.sub(r"(?m)^\s*#.*\n", "", text)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    stages: dict[str, Stage] = {}
    for line in lines:
        instruction, _, rest = line.partition(" ")
        rest = " ".join(rest.split())
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(name, base, ())
        elif stages:
            last = next(reversed(stages.values()))
            stages[last.name] = Stage(last.name, last.base, (*last.steps, (instruction, rest)))
    return stages


def image_steps(stages: dict[str, Stage]) -> list[tuple[str, str]]:
    """The steps of the last stage and of the stages that it begins with."""
    stage: Stage | None = next(reversed(stages.values()))
    steps: list[tuple[str, str]] = []
    while stage is not None:
        steps = [*stage.steps, *steps]
        stage = stages.get(stage.base)
    return steps


def violations(
    dockerfile: str, ignored: str, root: Path, *, port: int, routes: set[str]
) -> list[str]:
    """What is wrong with a Dockerfile; empty if nothing is.

    Args:
        dockerfile: its text.
        ignored: The text of .dockerignore.
        root: the context.
        port: on which the service listens if nothing else is said.
        routes: paths that it answers.
    """
    stages = read_stages(dockerfile)
    steps = image_steps(stages)
    return [
        *_bases(stages, dockerfile),
        *_layers(stages, " ".join(rest for instruction, rest in steps if instruction == "RUN")),
        *_running(dict(steps), port, routes),
        *_copies(stages, ignored, root),
        *_links(stages, root),
    ]


def _bases(stages: dict[str, Stage], dockerfile: str) -> Iterator[str]:
    for base in {stage.base for stage in stages.values()} - set(stages) - {"${BASE}"}:
        yield f"{base} is no argument"
    default = re.search(r"(?m)^ARG BASE=\S+:(?P<tag>\S+)", dockerfile)
    if default is None or default["tag"] == "latest":
        yield "the default base has no tag"


def _layers(stages: dict[str, Stage], last: str) -> Iterator[str]:
    """Of what the steps leave; ``last`` are the commands of the image itself."""
    for tool in _BUILD_TOOLS:
        if re.search(rf"(?<![\w-]){re.escape(tool)}(?![\w-])", last):
            yield f"{tool} comes into the last stage"
    if not re.search(r"\bwget\b", last):
        yield "wget is missing, with which KubeRay asks whether a worker is ready"
    for run in (run for stage in stages.values() for run in stage.of("RUN")):
        if run.count("apt-get update") > run.count("rm -rf /var/lib/apt/lists"):
            yield "package lists stay in a layer"
        if re.search(r"bin/pip (--python \S+ )?(install|wheel)", run):
            if "-c constraints.txt" not in run:
                yield f"unpinned: {run[:60]}"
            if "--mount=type=secret,id=pip" not in run:
                yield "pip's configuration is no secret"


def _running(last: dict[str, str], port: int, routes: set[str]) -> Iterator[str]:
    user = last.get("USER", "0").partition(":")[0]
    if not user.isdigit() or int(user) == 0:
        yield f"runs as {user}: a number other than 0 is what Kubernetes can check"
    if last.get("EXPOSE") != str(port):
        yield f"EXPOSE {last.get('EXPOSE')}, and the service listens on {port}"
    asked = re.search(r"'(/[\w/]+)'", last.get("HEALTHCHECK", ""))
    if asked is None or asked[1] not in routes:
        yield "the health check asks no route of the service"
    if not last.get("ENTRYPOINT", "").startswith("["):
        yield "the entry point is a shell, which keeps signals to itself"


def _copies(stages: dict[str, Stage], ignored: str, root: Path) -> Iterator[str]:
    """Sources that are missing, or that .dockerignore leaves out; what it keeps for nothing."""
    lines = [line for line in ignored.splitlines() if line and not line.startswith("#")]
    if lines[:1] != ["*"]:
        yield ".dockerignore does not begin with everything"
    kept = {line[1:] for line in lines if line.startswith("!")}
    needed: set[str] = set()
    for copy in (copy for stage in stages.values() for copy in stage.of("COPY")):
        *sources, _ = (part for part in copy.split() if not part.startswith("--"))
        origin = re.search(r"--from=(\S+)", copy)
        if origin is None:
            needed |= set(sources)
        elif origin[1] not in stages:
            yield f"COPY from {origin[1]}, which is no stage"
    for source in sorted(needed):
        if not (root / source).exists():
            yield f"COPY of {source}, which is not there"
        if not any(_within(source, name) for name in kept):
            yield f"COPY of {source}, which .dockerignore leaves out"
    for name in sorted(kept):
        if not any(_within(source, name) for source in needed):
            yield f".dockerignore keeps {name}, which nothing copies"


def _links(stages: dict[str, Stage], root: Path) -> Iterator[str]:
    """Links of flowmo/ that lead nowhere in the stage that builds the wheel."""
    for stage in stages.values():
        copied = [part for copy in stage.of("COPY") if len(part := copy.split()) == 2]
        if ["flowmo", "flowmo"] not in copied:
            continue
        in_place = [source for source, destination in copied if source == destination]
        for link in sorted(path for path in (root / "flowmo").iterdir() if path.is_symlink()):
            target = link.resolve().relative_to(root).as_posix()
            if not any(_within(source, target) or _within(target, source) for source in in_place):
                yield f"flowmo/{link.name} leads to {target}, which is not copied beside it"


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
