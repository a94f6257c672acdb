# Two images: `api` has qgjet alone, `worker` has Node.js and a test project too. docker-compose.yml builds both.
#   docker build --target worker --build-arg PROJECT=path/to/your/tests .

ARG PYTHON=python:3.13-slim-bookworm
ARG NODE=node:22-bookworm-slim

# what the dashboard loads in a browser
FROM ${NODE} AS assets
WORKDIR /src
COPY tools/assets.sh ./tools/
COPY projections/assets ./projections/assets
RUN sh tools/assets.sh

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/qgjet
WORKDIR /src
COPY requirements.lock ./
RUN /opt/qgjet/bin/pip install -r requirements.lock
COPY pyproject.toml hatch_build.py README.md LICENSE nats.conf ./
COPY qgjet ./qgjet
COPY projections ./projections
COPY cli ./cli
COPY --from=assets /src/projections/qgjet_projections/web/static/vendor ./projections/qgjet_projections/web/static/vendor
# the wheel as users get it, with exactly the versions of the lock
RUN /opt/qgjet/bin/pip wheel --no-deps --wheel-dir /wheels . && /opt/qgjet/bin/pip install --no-deps --no-index /wheels/*.whl

FROM ${NODE} AS project
ARG PROJECT=examples/shop
WORKDIR /project
COPY ${PROJECT}/ ./
RUN npm ci --ignore-scripts --no-audit --no-fund

FROM ${PYTHON} AS api
RUN useradd --uid 10001 --create-home qgjet && install --directory --owner qgjet /var/lib/qgjet && install --directory --owner qgjet --mode 0700 /var/lib/qgjet/secrets
COPY --from=build /opt/qgjet /opt/qgjet
ENV PATH=/opt/qgjet/bin:$PATH PYTHONUNBUFFERED=1 QGJET_API_DATABASE=/var/lib/qgjet/read-model.sqlite
VOLUME /var/lib/qgjet
USER qgjet
WORKDIR /home/qgjet
EXPOSE 8000
CMD ["qgjet", "serve", "--host", "0.0.0.0"]

FROM api AS worker
COPY --from=project /usr/local/bin/node /usr/local/bin/node
COPY --from=project --chown=qgjet /project /project
WORKDIR /project
# what remains writable when the root is not: attempts with their videos, caches of Node.js and Appium, and what tests write beside themselves
VOLUME ["/tmp", "/home/qgjet", "/project"]
CMD ["qgjet", "agent"]
