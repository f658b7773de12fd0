FROM debian:bookworm-slim
RUN --network=none true
RUN --network=host true
RUN --network=default true
