FROM debian:bookworm-slim
COPY --from=busybox:1.36 /bin/busybox /bin/
