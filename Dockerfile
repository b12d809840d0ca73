# docker build -t flatcrawler . && docker run --rm -v "$PWD/out:/data" flatcrawler run https://example.org/ -o /data
# (out/ must be writable for user 10001: install -d -o 10001 out; the health check is serve's: --no-healthcheck for run)
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY crawler crawler
COPY deploy/docker/build.sh deploy/docker/build.sh
COPY deploy/bytecode.py deploy/constraints.txt deploy/build-constraints.txt deploy/
RUN sh deploy/docker/build.sh /opt/crawler

FROM ${PYTHON}
LABEL org.opencontainers.image.title="flatcrawler" \
      org.opencontainers.image.description="A web crawler whose memory does not grow with the crawl" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY deploy/docker/runtime.sh /tmp/runtime.sh
RUN sh /tmp/runtime.sh /data && rm /tmp/runtime.sh
COPY --from=build /opt/crawler /opt/crawler
# two malloc arenas: with one per thread, what a burst took is not given back
ENV PATH=/opt/crawler/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MALLOC_ARENA_MAX=2
USER 10001:10001
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s CMD ["crawler", "healthcheck"]
ENTRYPOINT ["tini", "--", "crawler"]
CMD ["--help"]
