FROM service:1
RUN id
CMD ["--verbose"]
