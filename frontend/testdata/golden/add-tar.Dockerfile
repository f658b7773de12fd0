FROM debian:bookworm-slim
ADD root.tar.gz /
ADD --unpack=false root.tar.gz /keep/
