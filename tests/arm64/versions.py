"""Write to a file, as JSON, which Python and which libraries run here."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import distributions
from pathlib import Path

NAMED = (
    "numpy",
    "onnxruntime",
    "ai-edge-litert",
    "onnx",
    "msgspec",
    "psutil",
    "paho-mqtt",
    "scipy",
)

if __name__ == "__main__":
    found = {one.metadata["Name"].lower(): one.version for one in distributions()}
    told = {
        "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, "
        f"{platform.machine()}, {' '.join(platform.libc_ver())}",
        "python": platform.python_version(),
        "libraries": {name: found[name] for name in NAMED if name in found},
    }
    Path(sys.argv[1]).write_text(json.dumps(told))
