FROM debian:bookworm-slim
USER daemon
RUN id
ARG U=1000:1000
USER $U
RUN id
USER root
