FROM debian:bookworm-slim
RUN --mount=type=floppydisk,target=/c true
