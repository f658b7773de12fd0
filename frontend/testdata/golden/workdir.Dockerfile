FROM debian:bookworm-slim
WORKDIR /abs
WORKDIR rel
ARG V=x
WORKDIR ../$V
RUN pwd
COPY a b
