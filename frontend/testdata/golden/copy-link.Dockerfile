FROM debian:bookworm-slim
WORKDIR /app
COPY --link a .
COPY --link --chown=1000:1000 b /b
