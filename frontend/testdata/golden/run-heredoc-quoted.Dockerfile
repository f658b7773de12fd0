FROM debian:bookworm-slim
ENV A=b
RUN cat <<'ONE' > /one && cat <<-TWO > /two
$A stays
ONE
		no tabs $A
TWO
