# A broker with its own Valkey:
#
#     docker build -t restmq .
#     docker run -p 8888:8888 -v restmq:/data -v ./acl.conf:/etc/restmq/acl.conf:ro \
#         -e RESTMQ_ACL=/etc/restmq/acl.conf restmq
#
# In a container the broker has to listen on all addresses, so it wants an access file with a rule
# in it, or RESTMQ_OPEN=1 from somebody who has thought about it; else it ends with a line that says
# so. A Redis elsewhere: -e RESTMQ_REDIS_URL=redis://... (then /data is not used).

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/restmq
COPY requirements.lock .
RUN /opt/restmq/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY . .
# Twisted writes its list of plug-ins beside them, which the user of the daemon could not.
RUN /opt/restmq/bin/pip install --no-cache-dir --no-deps . \
    && /opt/restmq/bin/python -c \
        'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'

FROM python:3.11-slim-bookworm
COPY --from=build /opt/restmq /opt/restmq
RUN useradd --system --home-dir /data --no-create-home restmq \
    && install --directory --owner=restmq --mode=0700 /data
USER restmq
ENV PATH=/opt/restmq/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RESTMQ_DATA_DIR=/data \
    RESTMQ_LISTEN=0.0.0.0
VOLUME /data
EXPOSE 8888
# The default of ten seconds before SIGKILL is short for a big store: docker stop -t 30.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8888/readyz', timeout=2)"]
CMD ["restmqd"]
