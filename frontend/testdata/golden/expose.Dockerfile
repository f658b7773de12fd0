FROM debian:bookworm-slim
ARG PORT=8080
EXPOSE 80 443/tcp 53/udp $PORT 9000-9002
