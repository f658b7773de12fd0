FROM debian:bookworm-slim
ADD a.txt dir/ /dest/
ADD --chown=1:2 --chmod=640 ["with space", "/dest 2/"]
