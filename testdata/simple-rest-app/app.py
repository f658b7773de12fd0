"""A small REST service that says which machine it runs on."""

import json
import platform
import signal
import subprocess
import sys

from flask import Flask, jsonify

app = Flask(__name__)

with open("build.json", encoding="utf-8") as f:
    BUILD = json.load(f)

# What the distribution calls the architecture: armhf, arm64, amd64.
ARCHITECTURE = subprocess.run(
    ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
).stdout.strip()


@app.get("/")
def index():
    return jsonify(
        service="simple-rest-app",
        architecture=ARCHITECTURE,
        machine=platform.machine(),
        platform=BUILD["platform"],
        hostname=platform.node(),
        python=platform.python_version(),
    )


@app.get("/healthz")
def healthz():
    return jsonify(status="ok")


def stop(_signal, _frame):
    sys.exit(0)


if __name__ == "__main__":
    # Process 1 gets no signal that it does not ask for.
    signal.signal(signal.SIGTERM, stop)
    app.run(host="0.0.0.0", port=8080)
