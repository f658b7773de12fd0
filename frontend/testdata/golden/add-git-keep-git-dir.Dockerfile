FROM debian:bookworm-slim
ADD --keep-git-dir=true https://github.com/moby/buildkit.git#master /bk
