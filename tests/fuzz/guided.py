"""The same targets under atheris, which keeps the inputs that reach new code.

Run as a program, it feeds one target: libFuzzer ends the process it runs in, and what it
is to follow has to be imported under its eyes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_LONGEST_BYTES = 1 << 14
_MEMORY_MB = 1024


def is_possible() -> bool:
    """Whether atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


def run(name: str, inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Feed one target in a process of its own and return the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fuzz.guided", name, "--inputs", str(inputs)]
    command += ["--seed", str(seed), "--findings", str(folder.absolute())]
    begun_s = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, cwd=Path(__file__).parent.parent, check=False
    )
    told = done.stdout.decode("utf-8", "replace") + done.stderr.decode("utf-8", "replace")
    covered = re.findall(r"cov: (\d+)", told)
    counted = re.findall(r"^#(\d+)\s", told, re.MULTILINE)
    return {
        "inputs": max(map(int, counted), default=0),
        "seed": seed,
        "seconds": round(time.monotonic() - begun_s, 1),
        "covered": int(covered[-1]) if covered else 0,
        "findings": {} if done.returncode == 0 else {"atheris": told[-3000:]},
    }


def main() -> None:
    """Feed one target until libFuzzer ends this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--findings", type=Path, required=True)
    options = parser.parse_args()
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["hedge.uplink"]):
        targets = importlib.import_module("fuzz.targets")
    logging.getLogger("hedge").addHandler(logging.NullHandler())
    target = targets.targets()[options.name]()
    with tempfile.TemporaryDirectory(prefix="hedge-fuzz-") as corpus:
        for number, data in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(data)
        arguments = [
            sys.argv[0],
            f"-runs={options.inputs}",
            f"-seed={options.seed}",
            f"-max_len={_LONGEST_BYTES}",
            f"-rss_limit_mb={_MEMORY_MB}",
            f"-artifact_prefix={options.findings}/{options.name}-",
            "-timeout=10",
            corpus,
        ]
        atheris.Setup(arguments, target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
