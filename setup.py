"""Build: maps the top-level folders into one namespace and compiles the native module with CMake.

Environment:
    PUSHFORWARD_NATIVE   "auto" (default: build it, go on without it if that fails), "on" (fail if it cannot be
                         built) or "off" (pure Python: every kernel runs on the reference backend).
    PUSHFORWARD_CUDA     "auto" (default: build the CUDA part where nvcc is found), "on" or "off".
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
FOLDERS = {"pushforward": "pushforward", "kernels": "pushforward.kernels", "models": "pushforward.models",
           "solvers": "pushforward.solvers"}  # fmt: skip
MODES = ("auto", "on", "off")


def option(name: str) -> str:
    """Value of one of the environment switches documented above."""
    value = os.environ.get(name, "auto").lower()
    if value not in MODES:
        raise SystemExit(f"{name}: got {value!r}, expected one of {', '.join(MODES)}")
    return value


def packages() -> dict[str, str]:
    """Every package and its folder, so that a new sub-package needs no line here."""
    found = {}
    for folder, package in FOLDERS.items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            inner = init.parent.relative_to(ROOT / folder)
            found[".".join((package, *inner.parts))] = init.parent.relative_to(ROOT).as_posix()
    return found


class CMakeBuild(build_ext):
    """Runs CMake and Ninja for the native module; in mode "auto" a failure leaves a pure Python install."""

    def build_extension(self, ext: Extension) -> None:
        """Configure, compile, and put the module where setuptools expects it."""
        try:
            self.compile_with_cmake(ext)
        except (OSError, subprocess.CalledProcessError, ImportError) as error:
            if option("PUSHFORWARD_NATIVE") == "on":
                raise
            ext.optional = True
            self.warn(f"native module not built ({error}); the reference backend will be used")

    def compile_with_cmake(self, ext: Extension) -> None:
        """Raise if a tool is missing or the compiler fails."""
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), *generator,
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPUSHFORWARD_CUDA={option('PUSHFORWARD_CUDA').upper()}",
            f"-DPUSHFORWARD_MODULE_DIR={target.parent}",
            f"-DPUSHFORWARD_MODULE_FILE={target.name}",
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel"], check=True)
        if not target.exists():
            raise OSError(f"CMake left no module at {target}")

    def get_outputs(self) -> list[str]:
        """Only what was really built, so that an install without a compiler records no missing file."""
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        """Copy what was built beside its package (editable installs); nothing, if nothing was."""
        # Not get_ext_fullpath, which here, in place, would name where the copy is to go.
        built = [Path(self.build_lib) / self.get_ext_filename(ext.name) for ext in self.extensions]
        self.extensions = [ext for ext, path in zip(self.extensions, built, strict=True) if path.exists()]
        super().copy_extensions_to_source()


native = [] if option("PUSHFORWARD_NATIVE") == "off" else [Extension("pushforward.kernels._native", sources=[])]
setup(
    packages=list(packages()),
    package_dir=packages(),
    package_data={
        "pushforward": ["py.typed"],
        "pushforward.solvers.fitting": ["plans/*.json"],
        "pushforward.models.bundled": ["weights/*.safetensors", "weights/*.json"],
    },
    ext_modules=native,
    cmdclass={"build_ext": CMakeBuild},
)
