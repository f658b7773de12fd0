# BASE is the base
ARG BASE=debian:bookworm-slim
FROM $BASE AS build
# VERSION is what is built
ARG VERSION=1
RUN --mount=type=secret,id=token --mount=type=ssh --mount=type=cache,target=/c make
