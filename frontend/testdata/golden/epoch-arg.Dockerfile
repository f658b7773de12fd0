FROM debian:bookworm-slim
ARG SOURCE_DATE_EPOCH
RUN date -d @$SOURCE_DATE_EPOCH
