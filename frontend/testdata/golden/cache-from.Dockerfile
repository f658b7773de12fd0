FROM debian:bookworm-slim
RUN true
