# builds it
FROM debian:bookworm-slim AS build
FROM scratch AS export
