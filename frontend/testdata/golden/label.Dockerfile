FROM debian:bookworm-slim
LABEL one=1 "two words"="a \"b\"" three=$HOME
LABEL one=again
