# One image for every part; which one it is, the command says (`muniment api`, `follow`, `relay`, `stream`, ...).
# Nothing secret is inside: keys and passwords come from the environment when it runs.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/muniment
WORKDIR /src
# The dependencies change seldom: a layer of their own, each file checked against its hash.
COPY requirements/run.txt requirements/run.txt
RUN /opt/muniment/bin/python -m pip install --only-binary=:all: --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY domain domain
COPY commands commands
COPY projections projections
COPY stream_apps stream_apps
COPY api api
COPY infra infra
COPY muniment_client muniment_client
COPY runtime runtime
RUN /opt/muniment/bin/python -m pip install --no-deps --no-build-isolation .

FROM python:3.13-slim
# A number of its own, so that it can be told apart from the host's users; no shell, no home, nothing that it may write.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin muniment \
 && install --directory --owner=muniment --group=muniment --mode=0700 /var/lib/muniment
COPY --from=build /opt/muniment /opt/muniment
ENV PATH=/opt/muniment/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MUNIMENT_DATA=/var/lib/muniment
WORKDIR /var/lib/muniment
USER muniment
EXPOSE 8080
ENTRYPOINT ["muniment"]
CMD ["--help"]
