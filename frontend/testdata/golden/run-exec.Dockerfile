FROM debian:bookworm-slim
RUN ["/bin/echo", "two words", "$HOME"]
