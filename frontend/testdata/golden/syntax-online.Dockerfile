# syntax=docker/dockerfile:1.99
FROM debian:bookworm-slim
RUN true
