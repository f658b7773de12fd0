FROM --platform=linux/arm64 debian:bookworm-slim
RUN uname -m
