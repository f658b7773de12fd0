FROM debian:bookworm-slim
COPY --chmood=1 a b
