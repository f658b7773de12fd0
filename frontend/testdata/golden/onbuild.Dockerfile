FROM debian:bookworm-slim
ONBUILD COPY . /src
ONBUILD RUN make
