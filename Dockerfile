# warmclip's worker and server in one image, without torch: compose.yaml runs both of them.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY export export
COPY runtime runtime
RUN python -m venv /opt/warmclip \
    && /opt/warmclip/bin/pip install --no-cache-dir --constraint constraints.txt '.[cpu,serve]'

FROM python:3.13-slim
# A number, so that Kubernetes can see that it is not root's.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/warmclip --shell /usr/sbin/nologin warmclip \
    && chmod 0700 /var/lib/warmclip
COPY --from=build /opt/warmclip /opt/warmclip
ENV PATH=/opt/warmclip/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    WARMCLIP_HOME=/var/lib/warmclip
USER 10001
WORKDIR /var/lib/warmclip
# Prepared graphs and trials; all else in the image may be read-only, with a tmpfs at /tmp.
VOLUME /var/lib/warmclip
ENTRYPOINT ["warmclip"]
CMD ["worker", "--reserve", "high", "--log-json"]
