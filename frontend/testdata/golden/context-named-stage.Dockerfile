FROM debian:bookworm-slim AS build
RUN never
FROM debian:bookworm-slim
COPY --from=build /out /
