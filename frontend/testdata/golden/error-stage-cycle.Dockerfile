FROM debian:bookworm-slim AS a
COPY --from=b / /
FROM a AS b
COPY --from=a / /
