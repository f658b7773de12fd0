FROM app
RUN true
