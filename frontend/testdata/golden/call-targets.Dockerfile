# build builds it
FROM debian:bookworm-slim AS build
# export is what is shipped
FROM scratch AS export
