FROM debian:bookworm-slim AS tools
RUN make tools
FROM debian:bookworm-slim
RUN --mount=target=/src --mount=type=bind,from=tools,source=/out,target=/tools,rw --mount=type=bind,from=busybox,source=bin,target=/bb make -C /src
