FROM debian:bookworm-slim
ENV A="open
