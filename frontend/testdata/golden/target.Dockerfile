FROM debian:bookworm-slim AS one
RUN first
FROM one AS two
RUN second
FROM two
RUN third
