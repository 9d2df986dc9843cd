# Thin: each target is a `flowmo` command or a standard tool in the virtual environment .venv, which
# is made and filled on first use: with the core for what serves, with everything for what checks.
# Options go in ARGS: make serve ARGS="--port 9000".

PYTHON ?= python3
ARGS ?=
# Processes that the tests run in; 0 runs them in pytest's own, for a debugger.
WORKERS ?= 2
BIN := .venv/bin
CORE := .venv/.core
DEVELOPMENT := .venv/.development
PAGE := service/http/playground
DENO := DENO_NO_UPDATE_CHECK=1 DENO_DIR=build/deno $(BIN)/deno
JAVASCRIPT := --config tools/javascript/deno.json
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

.PHONY: help setup tools demo serve test test-slow check docs bench gpu-codegen image-test k8s-check \
	k8s-test

help:
	@echo "make demo    send the sample photographs through a server, write pictures and a table"
	@echo "make serve   serve the shipped checkpoint over HTTP"
	@echo "make test    run the tests (make tools: Debian's Prometheus and Chromium for them, as root)"
	@echo "make test-slow  run the few that take longest, which test leaves out"
	@echo "make check   run the linters, the formatter's check, the type checkers, the import rules, the docs' links"
	@echo "make docs    write the documentation as a site to build/site"
	@echo "make image-test  build the container image and run it, as root on Debian (minutes)"
	@echo "make k8s-check CRDS=FOLDER  validate manifests by operators' CustomResourceDefinitions"
	@echo "make k8s-test  try the manifests on a kind cluster (needs docker, kind, kubectl, helm)"
	@echo "make bench   compare the network with the reference values of the published one"
	@echo "make gpu-codegen  count what a block would launch on an H100; no GPU, an environment of 5 GB"
	@echo "make setup   fill .venv for test, check and bench, which they do themselves when needed"

# What tokenizes and serves, and nothing more.
$(CORE): pyproject.toml constraints.txt
	@echo "installing the core into .venv (a minute or two the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e .
	@touch $@

# The same environment with training, Ray and the tools of developers; the core is part of it.
$(DEVELOPMENT): pyproject.toml constraints.txt
	@echo "installing what tests and checks need into .venv (some minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e '.[dev]'
	@touch $(CORE) $@

setup: $(DEVELOPMENT)

# Debian packages that tests run. Root on a machine with apt-get is what CI is; anybody else is told
# by the tests what is missing.
tools:
	@if ! { command -v promtool && command -v amtool && command -v haproxy \
		&& command -v chromium && command -v redis-server; } >/dev/null \
		&& command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "installing $$(tr '\n' ' ' <apt-packages.txt)"; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$(cat apt-packages.txt) >/dev/null; \
	fi

demo: $(CORE)
	$(BIN)/flowmo demo $(ARGS)

serve: $(CORE)
	$(BIN)/flowmo serve $(ARGS)

test: setup tools
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup tools
	$(BIN)/python -m pytest -m slow $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(DENO) check --quiet $(JAVASCRIPT) $(wildcard $(PAGE)/*.js) tools/javascript/declarations.ts
	$(DENO) lint --quiet $(JAVASCRIPT) $(wildcard $(PAGE)/*.js) tools/javascript/declarations.ts
	$(MKDOCS) build --quiet --strict

# FLOWMO_REPOSITORY_URL is where links out of docs/ lead; without it they are written as paths.
docs: setup
	$(MKDOCS) build --strict $(ARGS)

bench: setup
	$(BIN)/python -m benchmarks.parity tests/data/parity/*.safetensors $(ARGS)

# PyTorch with CUDA, which the project's own environment may not be, in the version of a lent machine.
CODEGEN := build/gpu-codegen
gpu-codegen:
	test -x $(CODEGEN)/bin/python || $(PYTHON) -m venv $(CODEGEN)
	$(CODEGEN)/bin/python -m pip install --quiet torch==2.11.0 triton==3.6.0 fsspec huggingface_hub \
		matplotlib numpy pillow rich safetensors tensorboard torchmetrics
	$(CODEGEN)/bin/python -m benchmarks.generated_code --out $(CODEGEN) \
		--check benchmarks/results/speed/generated_code.json $(ARGS)

image-test: setup
	$(BIN)/python -m tests.image $(ARGS)

# Of KubeRay and others, which are not kept here: make k8s-check CRDS="kuberay-crds/ other.yaml"
k8s-check: setup
	$(BIN)/python -m tests.k8s.crds $(CRDS)

k8s-test: setup
	k8s/kind-test.sh
