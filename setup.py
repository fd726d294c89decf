"""Builds csrc/ with CMake into streamload._native; everything else about the package is in pyproject.toml.

cmake and ninja are taken from the Python environment if they are there (the build requirements bring them), else
from PATH, so that a machine without a network builds with what it has: `pip install -e . --no-build-isolation`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find_tool(name: str) -> str | None:
    """Find a build tool: beside this interpreter first, then on PATH."""
    scripts = sysconfig.get_path("scripts")
    return shutil.which(name, path=scripts) or shutil.which(name)


def run(*command: str) -> None:
    """Run one step of the build; its own messages say what went wrong, a traceback of ours would bury them."""
    if subprocess.run(command).returncode:
        raise SystemExit(f"streamload: building csrc/ failed at: {' '.join(command)}")


class CMakeBuild(build_ext):
    """Let CMake compile the extension; setuptools only decides where it goes."""

    def build_extension(self, ext: Extension) -> None:
        """Configure, build and install the module beside the package's Python files."""
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        if cmake is None:
            raise SystemExit("streamload needs cmake to build csrc/: pip install cmake ninja nanobind")
        # One tree per interpreter; kept between builds, so that a second build compiles only what changed.
        build = ROOT / "build" / f"python-{sys.implementation.cache_tag}"
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        options = [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_INSTALL_MESSAGE=NEVER"]
        options += [f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}"]
        if ninja is not None:
            options += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        jobs = str(self.parallel or len(os.sched_getaffinity(0)))
        run(cmake, "--log-level=WARNING", "-S", str(ROOT / "csrc"), "-B", str(build), *options)
        run(cmake, "--build", str(build), "--parallel", jobs)
        run(cmake, "--install", str(build), "--prefix", str(target), "--component", "python")


setup(ext_modules=[Extension("streamload._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
