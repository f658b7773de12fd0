FROM debian:bookworm-slim
COPY --exclude=*.log --exclude=**/node_modules . /src
