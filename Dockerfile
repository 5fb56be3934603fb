# The node, or the step of a router, in a container. Build it where a wheelhouse/ lies (`make wheelhouse`):
#     docker build --network none -t ldct-denoise .
# It has not been built by a container engine yet: none is at hand where this project is made. A test goes through
# its steps one by one instead (tests/test_wheelhouse.py). docs/how-to/pacs.md says how to run it.
FROM python:3.11-slim AS install
COPY wheelhouse /wheelhouse
RUN python -m venv /opt/ldct-denoise
RUN /opt/ldct-denoise/bin/pip install --quiet --no-cache-dir --no-index --find-links /wheelhouse "ldct-denoise[node]"

FROM python:3.11-slim
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
ENTRYPOINT ["ldct-denoise"]
CMD ["serve"]
