# check=skip=JSONArgsRecommended
FROM debian:bookworm-slim as mixed
CMD echo
