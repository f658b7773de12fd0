FROM debian:bookworm-slim
ADD https://github.com/moby/buildkit.git?tag=v0.20.0&subdir=docs&keep-git-dir=true /docs
