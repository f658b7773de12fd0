FROM debian:bookworm-slim
ARG A
ARG B=default C="$B too"
ARG UNUSED=1
RUN echo $A $B $C
ENV B=kept
RUN echo $B
