FROM debian:bookworm-slim AS deps
RUN make deps

FROM deps AS build
RUN make

FROM debian:bookworm-slim
COPY --from=build /out /usr/local
