# Two images that share their largest layers, torch and what the API needs:
#   docker build --target task .     trains: Flyte's pods, the stack's trainer, monitor and MLflow server
#   docker build --target serve .    the API, without flytekit
# Needs BuildKit (Docker 23 has it by itself, DOCKER_BUILDKIT=1 asks an older one for it).
ARG BASE_IMAGE=python:3.11-slim-bookworm

# Another version of something else is no reason to install torch again.
FROM ${BASE_IMAGE} AS torchs
COPY constraints.txt ./
RUN grep -iE '^(torch(vision)?|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+|numpy|pillow|sympy|mpmath|networkx|jinja2|markupsafe|filelock|fsspec|typing.extensions)==' \
    constraints.txt > /torch.txt


FROM ${BASE_IMAGE} AS libraries

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    GOMP_SPINCOUNT=1000 \
    RAKUTEN_VAR=/var/lib/rakuten \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# A GPU is seen where NVIDIA's runtime runs the container, and not missed where another does.

WORKDIR /app
RUN python -m venv /opt/venv \
    && useradd --create-home --uid 1000 rakuten \
    && install --directory --owner 1000 --group 1000 /app "$RAKUTEN_VAR"

# A mirror or a proxy for pip, with a password or without: `--secret id=pip,src=pip.conf`, which stays out of the layers.
# The layers go from what changes seldom to what changes often: torch, libraries, code.
# The index of PyTorch's builds for the CPU, say: the ordinary one carries CUDA, 4 GB of it.
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=bind,from=torchs,source=/torch.txt,target=/tmp/constraints.txt \
    pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint /tmp/constraints.txt torch torchvision

COPY constraints.txt pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      print(*p['dependencies'], *p['optional-dependencies']['serve'], sep='\n')" \
      > /tmp/requirements.txt \
    && pip install --constraint constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt


FROM libraries AS serve
COPY rakuten_tasks rakuten_tasks
COPY serving serving
ARG GIT_COMMIT=unknown
ENV GIT_COMMIT=$GIT_COMMIT \
    SERVE_HOST=0.0.0.0
USER 1000:1000
EXPOSE 8000
# Alive, not ready: an API that waits for its first champion is not to be killed for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('SERVE_PORT') or 8000}/live\")"]
CMD ["python", "-m", "serving"]


FROM libraries AS task
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['task'], sep='\n')" \
      > /tmp/requirements.txt \
    && pip install --constraint constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt
# Tells flytekit of our plugin (pyproject.toml), and copies nothing; before the code, which changes more often.
COPY README.md ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    install --directory --owner 1000 --group 1000 rakuten_tasks workflows \
    && PIP_CONSTRAINT=constraints.txt pip install --no-deps --editable .
# Flyte's fast registration unpacks newer code over this one, so it belongs to who runs it.
COPY --chown=1000:1000 rakuten_tasks rakuten_tasks
COPY --chown=1000:1000 workflows workflows
COPY --chown=1000:1000 configs configs
ARG GIT_COMMIT=unknown
ENV GIT_COMMIT=$GIT_COMMIT
USER 1000:1000
CMD ["pyflyte", "run", "workflows/training.py", "train_classifier"]
