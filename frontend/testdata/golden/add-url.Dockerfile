FROM debian:bookworm-slim
ADD https://example.com/file.txt /dest/
ADD --chmod=755 https://example.com/tool /usr/local/bin/tool
