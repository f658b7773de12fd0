FROM debian:bookworm-slim
COPY --from=repo /docs /docs
