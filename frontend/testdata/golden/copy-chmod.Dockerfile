FROM debian:bookworm-slim
COPY --chmod=0755 a /a
COPY --chmod=u=rwX,go=rX b /b
ARG MODE=600
COPY --chmod=$MODE c /c
