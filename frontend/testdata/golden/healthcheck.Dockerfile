FROM debian:bookworm-slim
HEALTHCHECK --interval=5s --timeout=3s --start-period=1m --start-interval=500ms --retries=4 CMD curl -f http://localhost/ || exit 1
