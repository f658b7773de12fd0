FROM debian:bookworm-slim AS one
RUN first
FROM one
RUN second
