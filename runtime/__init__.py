"""The device: configuration, sources, filters, backends, policy, loop, sinks, commands."""

import os

# ONNX Runtime keeps a record of its use at home (from 1.31 on) unless it is told first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
