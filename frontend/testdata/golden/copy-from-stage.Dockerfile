FROM debian:bookworm-slim AS build
RUN make
FROM debian:bookworm-slim
COPY --from=build /out/ /app/
COPY --from=build /etc/conf relative
