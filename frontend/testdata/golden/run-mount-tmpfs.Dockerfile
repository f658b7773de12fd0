FROM debian:bookworm-slim
RUN --mount=type=tmpfs,target=/tmp --mount=type=tmpfs,target=/var/tmp,size=64m true
