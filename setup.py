"""Ships compiled kernels where the build finds torch (`pip install --no-build-isolation .`); see sru_asr/build.py."""

import importlib.util
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

SPEC = importlib.util.spec_from_file_location("build", Path(__file__).parent / "sru_asr" / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)

TORCH = importlib.util.find_spec("torch")


class WithKernels(Distribution):
    """Binary where the build finds torch, though setuptools compiles nothing itself."""

    def has_ext_modules(self) -> bool:
        return TORCH is not None


class BuildWithKernels(build_py):
    """Adds the compiled kernels to the built package. An editable install compiles at first use instead."""

    def run(self) -> None:
        super().run()
        library = Path(self.build_lib) / "sru_asr" / build.shipped_library().name
        for stale in library.parent.glob("_C-*.abi3.so"):  # the build folder outlives a build
            stale.unlink()
        if TORCH is not None and not self.editable_mode:
            build.compile_library(library.resolve(), Path(TORCH.origin).parent)


class PlatformWheel(bdist_wheel):
    """A wheel with kernels in it serves every Python, but one kind of machine."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, machine = super().get_tag()
        return "py3", "none", machine


setup(distclass=WithKernels, cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel})
