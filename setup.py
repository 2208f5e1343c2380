"""Metadata, dependencies, extras, the ``wnseq`` command, and how ``pip install -e`` finds the packages."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.editable_wheel import editable_wheel

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "wnseq/__init__.py").read_text("utf-8"), re.M)[1]

PLOTS = ["matplotlib>=3.9", "tensorboard>=2.17"]
IMAGES = ["scikit-learn>=1.5", "pillow>=10.1"]
EXPORT = ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"]
RL = ["gymnasium>=1.1", "popgym>=1.0.6"]
EXTRAS = {
    "images": IMAGES,
    "plots": PLOTS,
    "export": EXPORT,
    "rl": RL,
    "test": [
        *PLOTS,
        *IMAGES,
        *EXPORT,
        *RL,
        "hypothesis>=6.100",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "setuptools>=77",
    ],
    "dev": ["mypy>=1.14", "ruff>=0.9"],
}

# Setuptools' own finder of an editable install is asked last. In the folder that holds the clone, where people keep
# their scripts, Python has by then taken the clone itself, a folder called wnseq, for a package without a file.
FINDER = '''"""Finds the source of wnseq, unless a package of that name lies on the path."""

import os
import sys
from importlib.machinery import PathFinder

CLONE = {clone!r}


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in ("wnseq", "wnseq.recipes"):
            return None
        found = PathFinder.find_spec(name, path)
        if found is not None and found.origin is not None:
            return found
        from importlib.util import spec_from_file_location

        folder = os.path.join(CLONE, "wnseq") if path is None else os.path.join(os.path.dirname(path[0]), "recipes")
        file = os.path.join(folder, "__init__.py")
        if not os.path.isfile(file):
            return found
        return spec_from_file_location(name, file, submodule_search_locations=[folder])


sys.meta_path.insert(0, Finder)
'''


class Editable:
    """What an editable wheel holds: a finder, and the line that starts it."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __call__(self, wheel, files, mapping):
        wheel.writestr("_wnseq_editable.py", FINDER.format(clone=str(HERE.resolve())))
        wheel.writestr("_wnseq_editable.pth", "import _wnseq_editable\n")


class EditableWheel(editable_wheel):
    """Setuptools' command, with a finder that is asked first."""

    def _select_strategy(self, name, tag, build_lib):
        return Editable() if self.mode in (None, "lenient") else super()._select_strategy(name, tag, build_lib)


setup(
    name="wnseq",
    version=VERSION,
    description="Weight-normalised LSTM and GRU layers for PyTorch, and Lightning recipes that train them.",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    author="The wnseq developers",
    python_requires=">=3.11",
    packages=[*find_packages(include=["wnseq", "wnseq.*"], exclude=["wnseq.recipes"]), "wnseq.recipes"],
    package_dir={"wnseq.recipes": "recipes"},
    package_data={"wnseq": ["py.typed"], "wnseq.recipes": ["presets/*/*.yaml"]},
    install_requires=[
        "torch>=2.11,<2.16",  # the newest that was tried: wnseq probes some of its private names
        "lightning>=2.6,!=2.6.2,!=2.6.3",  # 2.6.2 and 2.6.3 on the index were malicious (GHSA-w37p-236h-pfx3)
        "jsonargparse[signatures]>=4.49,<5",
        "pyyaml>=6,<7",
        "rich>=13.7",
        "numpy>=1.26",
        "sentencepiece>=0.2",
        "torchtext==0.6.*",  # the last pure-Python release; 0.18 does not import beside a current torch
        "pooch>=1.8",
        "charset-normalizer>=3.3",
        "filelock>=3.12",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
    cmdclass={"editable_wheel": EditableWheel},
    entry_points={"console_scripts": ["wnseq=wnseq.training.cli.command:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
