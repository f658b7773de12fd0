FROM debian:bookworm-slim
CMD ["lost"]
ENTRYPOINT exec top -b
