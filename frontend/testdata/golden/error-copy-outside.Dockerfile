FROM debian:bookworm-slim
COPY --from=nowhere@ / /
