FROM debian:bookworm-slim
COPY --parents ./x/./y/*.txt a/**/b /dest/
