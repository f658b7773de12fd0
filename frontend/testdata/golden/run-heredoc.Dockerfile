FROM debian:bookworm-slim
RUN <<EOF
set -e
echo one
echo two $HOME
EOF
