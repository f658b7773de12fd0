FROM debian:bookworm-slim
COPY a b/ *.txt /dest/
COPY ["with space", "/d/"]
COPY . .
