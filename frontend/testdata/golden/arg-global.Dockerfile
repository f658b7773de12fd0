ARG BASE=debian TAG=bookworm-slim
ARG UNSEEN=1
FROM ${BASE}:${TAG}
ARG TAG
RUN echo "$TAG" "$UNSEEN"
