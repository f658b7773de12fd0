FROM debian:bookworm-slim
RUN --device=vendor.example/gpu=0 --device=vendor.example/npu,required=false nvidia-smi
