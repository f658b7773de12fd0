FROM debian:bookworm-slim
COPY . /src
COPY ignored.log /x
