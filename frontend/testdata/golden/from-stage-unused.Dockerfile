FROM debian:bookworm-slim AS unused
RUN never
FROM debian:bookworm-slim
RUN true
