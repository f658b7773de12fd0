FROM debian:bookworm-slim
HEALTHCHECK CMD ["/healthy", "-q"]
