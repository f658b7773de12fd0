FROM debian:bookworm-slim
RUN date
COPY <<EOF /f
x
EOF
ADD https://example.com/f /g
