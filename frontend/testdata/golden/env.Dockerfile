FROM debian:bookworm-slim
ENV A=1 B="two words" C=${A}-$B
ENV old style value
RUN env
