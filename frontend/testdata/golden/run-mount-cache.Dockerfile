FROM debian:bookworm-slim
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,id=named,target=/root/.cache,uid=1000,gid=1000,mode=0700,ro --mount=type=cache,from=debian:bookworm-slim,source=/usr,target=/seeded true
