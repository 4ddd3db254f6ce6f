"""Packaging of ssl_jax; every dependency and the reason for each extra is here."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

VERSION = "0.1.0"
# Where the repository is published, as `git clone` takes it: "" until it is. The only place to set
# it; `python -m experiments.tables` then writes it into the notebooks, README.md and CITATION.cff.
ADDRESS = ""

# Lower bounds are the newest releases that pip finds for Python 3.11; on 3.12 and 3.13 it installs
# newer ones (jax 0.12), and the tests run on both. Neither TensorFlow nor torch is required.
BASE = [
    "absl-py>=2.1",
    "array_record>=0.8.3",
    "etils[epath]>=1.12",
    "flax>=0.12.8",
    # files in object stores, besides etils.epath
    "fsspec>=2025.9",
    "grain>=0.2.18",
    # tensorflow-datasets needs it to read metadata and does not declare it for every Python
    "importlib_resources>=6",
    "jax>=0.10.2",
    "librosa>=0.11",
    "matplotlib>=3.9",
    "ml-collections>=1.1",
    "msgpack>=1.0",
    "numpy>=2.1",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pillow>=11",
    "safetensors>=0.6",
    "scipy>=1.14",
    "soundfile>=0.13",
    "soxr>=0.5",
    "tensorflow-datasets>=4.9.9",
]

EXTRAS = {
    # toy speech for the quickstart; bundles espeak-ng (GPL-3), so it is never a base dependency
    "synth": ["espeakng-loader>=0.2.4"],
    # audio that libsndfile cannot read: AAC, MP4, WebM, WMA (ssl_jax/data/readers/ffmpeg.py)
    "audio": ["av>=14"],
    # video files, in the formats of FFmpeg
    "video": ["av>=14"],
    # toy music from notes; pretty_midi bundles the SoundFont
    "music": ["midirenderer>=0.1.3", "pretty_midi>=0.2.11"],
    # reads a tokenizer.json; the byte tokenizer needs no package
    "text": ["tokenizers>=0.21"],
    # gs:// paths
    "gcs": ["gcsfs>=2025.9"],
    # faiss: a baseline of the k-means benchmark
    "eval": ["faiss-cpu>=1.10", "jiwer>=4.0", "scikit-learn>=1.6"],
    # torch writes files of other toolkits and checks ours; pinned, as newer ones bring CUDA
    "interop": ["torch==2.13.0", "transformers>=5"],
    # sweeps on a Slurm cluster
    "slurm": ["submitit>=1.5"],
    # opens reports in a real browser, in a test; Chromium comes with apt or `playwright install`
    "browser": ["playwright>=1.50"],
    "log": ["tensorboardX>=2.6.4", "wandb>=0.20"],
    # nbclient and ipykernel execute the notebooks
    "test": [
        "ipykernel>=6.29",
        "jiwer>=4.0",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "pytest>=8.3",
        # parses the manifest of a run on GKE
        "pyyaml>=6",
        "pytest-xdist>=3.6",
        "scikit-learn>=1.6",
        "tensorboardX>=2.6.4",
    ],
    "dev": ["mypy>=1.15", "ruff>=0.11"],
}


class BuildPy(build_py):
    """Copies configs/ into the package, so that `--config configs/x.py` works without a clone."""

    def run(self) -> None:
        """Builds and copies; an editable install finds the configs in its clone."""
        super().run()
        if not self.editable_mode:
            ignored = shutil.ignore_patterns("__pycache__")
            folder = Path(self.build_lib) / "ssl_jax" / "configs"
            shutil.copytree("configs", folder, ignore=ignored, dirs_exist_ok=True)


if __name__ == "__main__":
    readme = Path(__file__).parent / "README.md"
    setup(
        name="ssl_jax",
        version=VERSION,
        url=ADDRESS or None,
        description="Masked-prediction methods for speech, audio, images and video in JAX",
        long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        license_files=["LICENSE"],
        python_requires=">=3.11,<3.14",
        packages=find_packages(include=["ssl_jax", "ssl_jax.*"]),
        cmdclass={"build_py": BuildPy},
        install_requires=BASE,
        extras_require=EXTRAS,
        classifiers=[
            "Programming Language :: Python :: 3.11",
            "Programming Language :: Python :: 3.12",
            "Programming Language :: Python :: 3.13",
            "Topic :: Scientific/Engineering :: Artificial Intelligence",
        ],
    )
