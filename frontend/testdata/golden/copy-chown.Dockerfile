FROM debian:bookworm-slim
ARG OWNER=5
COPY --chown=1000:1001 a /a
COPY --chown=www-data b /b
COPY --chown=root:$OWNER c /c
