FROM debian:bookworm-slim
RUN --mount=type=cache,target=/c true
