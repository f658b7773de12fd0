FROM debian:bookworm-slim
ENV NAME=world
COPY <<EOF /hello.txt
hello $NAME
EOF
COPY --chmod=755 <<'A' <<B /dir/
raw $NAME
A
${NAME}s
B
ADD <<conf /etc/conf
x=1
conf
