FROM debian:bookworm-slim
MAINTAINER Jo <jo@example.com>
