FROM debian:bookworm-slim
COPY . /src
