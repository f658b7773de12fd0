FROM debian:bookworm-slim
ONBUILD FROM x
