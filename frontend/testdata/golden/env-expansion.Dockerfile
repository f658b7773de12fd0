FROM debian:bookworm-slim
ENV A=abc-def-abc EMPTY=
ENV D=${A:-x} E=${EMPTY:-x} F=${EMPTY-x} G=${A:+y} H=${A#abc-} I=${A##*-} J=${A%-abc} K=${A%%-*} L=${A/abc/X} M=${A//abc/X} N=\$A O='$A'
WORKDIR /${A}
