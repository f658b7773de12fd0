FROM debian:bookworm-slim
ADD --unpack https://example.com/linux.tar.xz /src
ADD --unpack=true --chown=7 https://example.com/b.tar /b
