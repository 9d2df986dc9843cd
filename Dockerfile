# One image for gateway, replicas, training and engine building (docs/image.md).
#
#   docker build -t flowmo-serve .                                        GPUs
#   docker build -t flowmo-serve:cpu --build-arg BASE=python:3.12-slim \
#     --build-arg EXTRAS=serve,train,train-ray,export,grpc,tracing,s3,gcs,redis,zstd .    without TensorRT
#
# TensorRT's libraries come from its vendor's index, not from PyPI; TENSORRT_INDEX names a mirror of it.
#
# BASE is anything of Debian or Ubuntu with Python 3.11 or newer, there already or from its archive.
# torch's wheels bring the CUDA libraries, so the base needs no more of CUDA than its smallest runtime.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04
ARG TENSORRT_INDEX=https://pypi.nvidia.com/

FROM ${BASE} AS python
RUN if ! command -v python3 >/dev/null; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
            ca-certificates python3 \
        && rm -rf /var/lib/apt/lists/*; \
    fi

FROM python AS requirements
ARG EXTRAS=serve,train,train-ray,export,grpc,tracing,s3,gcs,redis,zstd,tensorrt
ARG TENSORRT_INDEX
COPY pyproject.toml tools/dependencies.py /
# Asks that index first, and says what to do if it does not answer.
RUN python3 /dependencies.py /pyproject.toml "${EXTRAS}" "${TENSORRT_INDEX}" > /requirements.txt

# Dependencies, in a layer of their own: it changes when one of them does.
FROM python AS dependencies
RUN if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
        && rm -rf /var/lib/apt/lists/*; \
    fi
# pip lives beside what it installs, so that what is copied from here cannot install anything.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
WORKDIR /build
COPY --from=requirements /requirements.txt ./
COPY constraints.txt ./
# A private index comes as a secret and stays out of the image: --secret id=pip,src=pip.conf
ARG TENSORRT_INDEX
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    WHEEL_STUB_PIP_INDEX_URL="${TENSORRT_INDEX}" \
    /opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir -c constraints.txt -r requirements.txt

# The project as a wheel, beside them.
FROM dependencies AS project
COPY pyproject.toml README.md LICENSE ./
# flowmo's links lead to the other folders; the wheel holds what they lead to.
COPY flowmo flowmo
COPY model model
COPY training training
COPY deploy/runtime deploy/runtime
COPY service service
COPY checkpoints/tiny checkpoints/tiny
COPY checkpoints/prior-tiny checkpoints/prior-tiny
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/pip/bin/pip wheel --no-cache-dir --no-deps -c constraints.txt --wheel-dir /build/wheels . \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --target /opt/flowmo /build/wheels/*.whl

FROM python AS runtime
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flowmo-serve" \
    org.opencontainers.image.description="FlowMo image tokenization as a service" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# What KubeRay (1.6, 1.7) probes workers of a RayService with; Debian's base has bash and grep.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/*
# A number, so that Kubernetes can see that it is not root.
RUN groupadd --gid 10001 flowmo \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp/home --shell /usr/sbin/nologin flowmo \
    && install -d -o 10001 -g 10001 /checkpoints /engines
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=project /opt/flowmo /opt/flowmo
# A login shell, which some operators start Ray with, has a PATH of its own.
RUN ln -s /opt/venv/bin/ray /opt/venv/bin/python3 /opt/flowmo/bin/flowmo /usr/local/bin/
# Whatever libraries want to write goes under /tmp: the root file system may be read-only. Listening
# beyond the container still needs keys, or FLOWMO_ALLOW_ANONYMOUS (docs/access.md).
ENV PATH=/opt/flowmo/bin:/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/flowmo \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp/home \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor \
    FLOWMO_HOST=0.0.0.0 \
    FLOWMO_ENGINE_CACHE=/engines \
    FLOWMO_LOG_FORMAT=json
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('FLOWMO_PORT', '8000') + '/healthz', timeout=4)"]
ENTRYPOINT ["flowmo"]
CMD ["serve"]

# --target compiling: with the C compiler that torch.compile calls (runner=compiled, compile=true).
FROM runtime AS compiling
USER 0
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ python3-dev \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001

# The last stage is what a build without --target gives: no compiler, no pip.
FROM runtime
