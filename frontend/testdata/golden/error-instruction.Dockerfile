FROM debian:bookworm-slim
FROBNICATE true
