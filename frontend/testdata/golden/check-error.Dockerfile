# check=error=true
FROM debian:bookworm-slim as mixed
RUN true
