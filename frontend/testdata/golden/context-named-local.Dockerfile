FROM debian:bookworm-slim
COPY --from=lib / /lib1
RUN --mount=type=bind,from=lib,target=/l true
