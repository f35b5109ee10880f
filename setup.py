"""Package metadata of dnc_fast; everything about the package itself is here."""

import re
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "dnc_fast/__init__.py").read_text()).group(1)

CPU = ["numba>=0.59"]
TRAIN = ["matplotlib>=3.7", "tqdm>=4.60"]
SHARE = ["safetensors>=0.4"]
ONNX = ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.5"]
TENSORBOARD = ["tensorboard>=2.12"]
EXAMPLES = ["accelerate>=1.2", "lightning>=2.5"]
PYTEST = ["pytest>=7.4", "pytest-benchmark>=4.0", "pytest-xdist>=3.3"]
DOCS = ["latex2mathml>=3.77", "mkdocs-material>=9.6", "mkdocstrings-python>=2.0"]
TEST = [*CPU, *TRAIN, *SHARE, *ONNX, *TENSORBOARD, *EXAMPLES, *PYTEST, "hypothesis>=6.80"]

LINKS = {"dnc_fast/kernels": "../kernels", ".editable/dnc_fast": "../dnc_fast"}


def package_dir() -> dict[str, str]:
    """Where the packages are; an editable installation finds them through `LINKS`.

    So setuptools puts the folder `.editable` on Python's path. Without links it would install an
    import hook, which Python asks last: started in the folder that contains a clone named dnc_fast,
    it would import the clone, as a package without code.
    """
    folders = {"dnc_fast": "dnc_fast", "dnc_fast.kernels": "kernels"}
    if "editable_wheel" not in sys.argv:
        return folders
    try:
        for link, target in LINKS.items():
            (ROOT / link).parent.mkdir(exist_ok=True)
            if not (ROOT / link).is_symlink():
                (ROOT / link).symlink_to(target, target_is_directory=True)
    except OSError:  # such as on Windows without the right to make links
        return folders
    return {"": ".editable"}


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
        "train": [*CPU, *TRAIN, *SHARE],
        "share": SHARE,
        "onnx": ONNX,
        "tensorboard": TENSORBOARD,
        "examples": [*CPU, *EXAMPLES],
        "test": TEST,
        "bench": [*CPU, *TRAIN, "dnc==1.1.0", "pytest>=7.4", "pytest-benchmark>=4.0"],
        "docs": DOCS,
        "dev": [*TEST, "mypy>=1.10", "ruff>=0.9"],
    },
    packages=[
        "dnc_fast",
        "dnc_fast.backends",
        "dnc_fast.backends.cpu",
        "dnc_fast.backends.triton",
        "dnc_fast.baselines",
        "dnc_fast.cli",
        "dnc_fast.compat",
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
        "dnc_fast.tasks.graphs_in_words",
        "dnc_fast.tasks.shrdlu",
        "dnc_fast.tasks.stories",
        "dnc_fast.training",
    ],
    package_dir=package_dir(),
    package_data={"dnc_fast": ["py.typed", "bundled/*/*"], "dnc_fast.pictures": ["page/*"]},
    entry_points={"console_scripts": ["dnc-fast = dnc_fast.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
