FROM debian:bookworm-slim as mixed
ENV SECRET_TOKEN=x
ENV legacy form
CMD echo $UNDEFINED
CMD twice
WORKDIR rel
expose 80
