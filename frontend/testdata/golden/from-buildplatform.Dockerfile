FROM --platform=$BUILDPLATFORM debian:bookworm-slim AS build
ARG TARGETOS TARGETARCH TARGETVARIANT
RUN cross --os $TARGETOS --arch $TARGETARCH --variant "$TARGETVARIANT"
FROM debian:bookworm-slim
COPY --from=build /out/app /app
