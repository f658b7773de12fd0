FROM debian:bookworm-slim
ARG WANTED
ENV A="${WANTED:?give WANTED}"
