# The node, or the step of a router, in a container. Build it where a wheelhouse/ lies (`make wheelhouse`):
#     docker build --network none -t ldct-denoise .
# It has not been built by a container engine yet: none is at hand where this project is made. A test goes through
# its steps one by one instead (tests/test_wheelhouse.py). docs/how-to/pacs.md says how to run it.
# Pin the base image by digest: --build-arg BASE=python:3.11-slim@sha256:…
ARG BASE=python:3.11-slim
FROM ${BASE} AS install
COPY wheelhouse /wheelhouse
COPY requirements-node.lock /
RUN python -m venv /opt/ldct-denoise
RUN /opt/ldct-denoise/bin/pip install --quiet --no-cache-dir --no-index --find-links /wheelhouse torch
RUN /opt/ldct-denoise/bin/pip install --quiet --no-cache-dir --no-index --find-links /wheelhouse \
    --require-hashes --no-deps --requirement /requirements-node.lock
RUN /opt/ldct-denoise/bin/pip install --quiet --no-cache-dir --no-index --find-links /wheelhouse --no-deps ldct-denoise

FROM ${BASE}
COPY --from=install /opt/ldct-denoise /opt/ldct-denoise
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin ldct \
    && install -d -o 10001 -g 10001 -m 700 /var/lib/ldct-denoise
# Any user may be given at run time (mercure does): nothing but /tmp and the spool is written.
ENV PATH=/opt/ldct-denoise/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /tmp
VOLUME /var/lib/ldct-denoise
EXPOSE 11112
STOPSIGNAL SIGTERM
# The node's own state, at the default status port; 503 where a part has failed.
HEALTHCHECK --interval=60s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8104/health', timeout=5)"]
ENTRYPOINT ["ldct-denoise"]
CMD ["serve"]
