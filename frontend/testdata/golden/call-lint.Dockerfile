FROM debian:bookworm-slim as mixed
MAINTAINER me
