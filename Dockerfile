# A broker with its own Valkey:
#
#     docker build -t restmq .
#     docker run -p 8888:8888 -v restmq:/data -v ./acl.conf:/etc/restmq/acl.conf:ro \
#         -e RESTMQ_ACL=/etc/restmq/acl.conf restmq
#
# In a container the broker has to listen on all addresses, so it wants an access file with a rule
# in it, or RESTMQ_OPEN=1 from somebody who has thought about it; else it ends with a line that says
# so. A Redis elsewhere: -e RESTMQ_REDIS_URL=redis://... (then /data is not used). Options of the
# broker may stand behind the image's name, and so may another program: `restmq restmq_engine -s`.
#
# All parts have wheels for amd64 and arm64; nothing is compiled:
#
#     docker buildx build --platform linux/amd64,linux/arm64 -t restmq .

FROM python:3.11-slim-bookworm AS build
RUN python -m venv --without-pip /opt/restmq
WORKDIR /src
COPY requirements.lock ./
RUN pip --python /opt/restmq/bin/python install --no-cache-dir --no-deps --require-hashes \
        --only-binary :all: -r requirements.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY restmq restmq/
COPY twisted twisted/
COPY deploy/trim deploy/
RUN pip --python /opt/restmq/bin/python install --no-cache-dir --no-deps . \
    && deploy/trim /opt/restmq

FROM python:3.11-slim-bookworm
COPY --from=build /opt/restmq /opt/restmq
COPY deploy/docker/entrypoint deploy/docker/healthcheck /usr/local/bin/
RUN install --directory --owner=10001 --group=10001 --mode=0700 /data
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /data
ENV PATH=/opt/restmq/bin:$PATH \
    HOME=/data \
    PYTHONUNBUFFERED=1 \
    RESTMQ_DATA_DIR=/data \
    RESTMQ_LISTEN=0.0.0.0
VOLUME /data
EXPOSE 8888
# /livez says that the loop turns. Whether the store answers is /readyz, and no reason to restart.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s CMD ["healthcheck"]
# The default of ten seconds before SIGKILL is short: docker stop -t 45.
ENTRYPOINT ["entrypoint"]
