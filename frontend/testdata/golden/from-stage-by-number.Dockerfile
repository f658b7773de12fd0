FROM debian:bookworm-slim
RUN make
FROM scratch
COPY --from=0 /out /
