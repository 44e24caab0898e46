"""Where results come from: the profile, the configuration, versions, commit, machine and date."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from lib.studies.profiles import Profile

PACKAGES = (  # that results may depend on
    *("latent-terms", "torch", "transformers", "sentence-transformers", "numpy", "scipy", "pandas", "numba"),
    *("ir-measures", "bm25s", "PyStemmer", "faiss-cpu", "pyseismic-lsr"),
)


def provenance(profile: Profile, **config) -> dict:
    """Return what a results file carries, JSON-able: profile, configuration, versions, commit, machine and date."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "profile": profile.name,
        "config": config,
        "versions": versions,
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """Name the processor's model where the system has it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()}, {models[0]}" if models else platform.machine()


def _commit() -> str:
    """Name the commit of this file's checkout, with a "+" where lib or notebooks differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # else it is installed in somebody else's checkout
        changes = git("status", "--porcelain", ".", "../notebooks")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
