FROM debian:bookworm-slim
RUN apt-get update && \
    # a comment inside
    apt-get install -y curl
