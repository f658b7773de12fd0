FROM debian:bookworm-slim
ADD https://github.com/moby/buildkit.git#v0.20.0:docs /docs
ADD git@github.com:moby/buildkit.git /ssh
