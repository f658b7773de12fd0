FROM debian:bookworm-slim
RUN --mount=type=secret,id=token --mount=type=secret,id=key,target=/root/.ssh/key,mode=0440,uid=5,gid=6,required=true --mount=type=secret,id=pass,env=PASS --mount=type=secret,id=both,env=BOTH,target=/both true
