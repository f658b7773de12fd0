FROM triggers:1
RUN after
