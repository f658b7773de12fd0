# escape=`
FROM debian:bookworm-slim
RUN echo one `
    two
ENV P=C:\dir\
