FROM debian:bookworm-slim
RUN --security=insecure mount
RUN --security=sandbox id
