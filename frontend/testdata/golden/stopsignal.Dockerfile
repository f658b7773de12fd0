FROM debian:bookworm-slim
ARG S=SIGINT
STOPSIGNAL $S
