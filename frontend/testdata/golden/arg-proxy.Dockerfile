FROM debian:bookworm-slim
RUN echo $HTTP_PROXY
ARG HTTPS_PROXY
RUN echo $HTTPS_PROXY
