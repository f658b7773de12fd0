FROM debian:bookworm-slim
CMD echo $HOME
