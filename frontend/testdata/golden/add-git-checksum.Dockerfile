FROM debian:bookworm-slim
ADD --checksum=24454f830cdb571e2c4ad15481119c43b3cafd48 https://github.com/moby/buildkit.git#v0.20.0 /bk
