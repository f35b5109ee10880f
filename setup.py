"""Package metadata of dnc_fast; everything about the package itself is here."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "dnc_fast/__init__.py").read_text()).group(1)

CPU = ["numba>=0.59"]
TRAIN = ["matplotlib>=3.7", "tqdm>=4.60"]
TENSORBOARD = ["tensorboard>=2.12"]
EXAMPLES = ["accelerate>=1.2", "lightning>=2.5"]
PYTEST = ["pytest>=7.4", "pytest-benchmark>=4.0", "pytest-xdist>=3.3"]
TEST = [*CPU, *TRAIN, *TENSORBOARD, *EXAMPLES, *PYTEST, "hypothesis>=6.80"]

setup(
    name="dnc_fast",
    version=VERSION,
    description="A high-performance Differentiable Neural Computer for PyTorch",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    install_requires=["torch>=2.6", "numpy", "triton; platform_system == 'Linux'"],
    extras_require={
        "cpu": CPU,
        "train": [*CPU, *TRAIN],
        "tensorboard": TENSORBOARD,
        "examples": [*CPU, *EXAMPLES],
        "test": TEST,
        "bench": [*CPU, *TRAIN, "dnc==1.1.0", "pytest>=7.4", "pytest-benchmark>=4.0"],
        "dev": [*TEST, "mypy>=1.10", "ruff>=0.9"],
    },
    packages=[
        "dnc_fast",
        "dnc_fast.backends",
        "dnc_fast.backends.cpu",
        "dnc_fast.backends.triton",
        "dnc_fast.cli",
        "dnc_fast.controllers",
        "dnc_fast.engine",
        "dnc_fast.kernels",
        "dnc_fast.kernels.cpu",
        "dnc_fast.kernels.gpu",
        "dnc_fast.linkages",
        "dnc_fast.pictures",
        "dnc_fast.presets",
        "dnc_fast.reference",
        "dnc_fast.tasks",
        "dnc_fast.tasks.babi",
        "dnc_fast.tasks.graphs",
        "dnc_fast.training",
    ],
    package_dir={"dnc_fast": "dnc_fast", "dnc_fast.kernels": "kernels"},
    package_data={"dnc_fast": ["py.typed"]},
    entry_points={"console_scripts": ["dnc-fast = dnc_fast.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
