FROM debian:bookworm-slim
ADD --link --exclude=*.md --exclude=!README.md dir /dest
