FROM debian:bookworm-slim
SHELL ["/bin/bash", "-eo", "pipefail", "-c"]
RUN false | true
CMD run
HEALTHCHECK CMD check
