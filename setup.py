"""Builds the compiled data plane. Everything else about the package is in pyproject.toml.

Environment:
    CRYPRQ_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer, for tests only (``make asan``)
    CRYPRQ_WERROR=1     warnings in csrc/ are errors: for CI, not for users, whose compiler may be a newer one
    CRYPRQ_GIT_SHA=...  the revision to record where there is no .git, as in an image build
    CRYPRQ_OPENSSL=...  link the static libcrypto under this prefix (release/build_openssl.sh), for wheels, which may
                        need nothing of the host
"""

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
SANITIZE = os.environ.get("CRYPRQ_SANITIZE") == "1"
WERROR = os.environ.get("CRYPRQ_WERROR") == "1"
OPENSSL = os.environ.get("CRYPRQ_OPENSSL")

# One binary for every CPython from 3.11 on: Python talks to C per event and never per packet, so the stable ABI costs
# nothing. Free-threaded builds have no stable ABI yet (PEP 803).
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")

COMPILE = ["-std=gnu11", "-fvisibility=hidden", "-pthread", f"-ffile-prefix-map={ROOT}=."]
# The version script keeps libcrypto's names, where it is linked in, from meeting those of another libcrypto.
LINK = ["-pthread", "-Wl,--version-script=cryprq/_fastpath.map"]
if SANITIZE:
    SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    COMPILE += ["-O1", "-g", "-fno-omit-frame-pointer", "-U_FORTIFY_SOURCE", "-UNDEBUG", *SANITIZERS]
    LINK += SANITIZERS
else:
    # Ubuntu's gcc sets _FORTIFY_SOURCE itself, and would warn about a second definition.
    COMPILE += ["-O3", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
    LINK += ["-Wl,-z,relro,-z,now"]

STRICT = ["-Wall", "-Wextra"] + (["-Werror"] if WERROR else [])
GENERATED = ["-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers"]

HEADERS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*.h"))


def revision() -> str | None:
    """The git revision of this checkout, ``-dirty`` when it has changes; None outside a checkout."""
    if sha := os.environ.get("CRYPRQ_GIT_SHA"):
        return sha
    if not (ROOT / ".git").exists():  # an sdist, perhaps unpacked inside somebody else's repository
        return None
    # safe.directory: root building a user's checkout is no reason to lose the revision.
    command = ["git", "-c", "safe.directory=*", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_build_info(version: str) -> None:
    """Writes cryprq/_build.py, from which the program learns its revision.

    An sdist carries the file; a build without git keeps the one that is there.
    """
    path = ROOT / "cryprq" / "_build.py"
    sha = revision()
    if sha is None and path.exists():
        return
    text = f'"""Written by setup.py; do not edit."""\n\nVERSION = {version!r}\nGIT_SHA = {sha or "unknown"!r}\n'
    text = text.replace("'", '"')
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def is_newer(path: str, when: float) -> bool:
    """Whether the file exists and was written after ``when`` (seconds of the epoch)."""
    return os.path.exists(path) and os.path.getmtime(path) > when


# What `cryprq deploy` prints (cryprq/cli/deploy.py).
DEPLOYED = ("cryprq-node.service", "prometheus/cryprq.rules.yml", "grafana/cryprq.json", "compose.yaml")


class BuildPy(build_py):
    """Copies the Python sources, with the build information among them, and what of deploy/ the tool prints."""

    def run(self) -> None:
        write_build_info(self.distribution.get_version())
        super().run()
        if self.editable_mode:
            return
        for name in DEPLOYED:
            target = Path(self.build_lib, "cryprq", "cli", "deployed", name)
            self.mkpath(str(target.parent))
            self.copy_file(str(ROOT / "deploy" / name), str(target))


class Sdist(sdist):
    """Packs the sources, with the build information among them."""

    def run(self) -> None:
        write_build_info(self.distribution.get_version())
        super().run()


class BuildExt(build_ext):
    """Compiles csrc/ strictly and Cython's output less so, and only the objects that are older than their sources."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # pip builds in a temporary directory; objects in one place let it and setup.py share their work.
        flavour = "asan" if SANITIZE else "release"
        self.build_temp = f"build/objects-{flavour}-{sysconfig.get_config_var('SOABI')}"

    def run(self) -> None:
        write_build_info(self.distribution.get_version())
        if self.inplace and ABI3:
            # One that was built for a single version of Python would be imported instead.
            for stale in ROOT.glob("cryprq/_fastpath.cpython-*.so"):
                stale.unlink()
        super().run()

    def build_extensions(self) -> None:
        compile_one = self.compiler._compile
        newest_header = max(os.path.getmtime(path) for path in [*HEADERS, "setup.py"])

        def compile_source(obj: str, src: str, ext: str, cc_args: list[str], extra: list[str], pp: list[str]) -> None:
            if not self.force and is_newer(obj, max(os.path.getmtime(src), newest_header)):
                return
            own = Path(src).parent.name == "csrc"
            compile_one(obj, src, ext, cc_args, [*extra, *(STRICT if own else GENERATED)], pp)

        # setuptools has one set of flags per extension; this private hook is the one place to set them per file.
        self.compiler._compile = compile_source
        super().build_extensions()


def extensions() -> list[Any]:
    """The extension modules, with C generated from Cython where it is out of date."""
    fastpath = Extension(
        "cryprq._fastpath",
        sources=["cryprq/_fastpath.pyx", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*.c"))],
        depends=[*HEADERS, "setup.py", "cryprq/_fastpath.map"],
        include_dirs=["csrc", *([f"{OPENSSL}/include"] if OPENSSL else [])],
        extra_objects=[f"{OPENSSL}/lib/libcrypto.a"] if OPENSSL else [],
        libraries=[] if OPENSSL else ["crypto"],
        define_macros=[("Py_LIMITED_API", "0x030b0000")] if ABI3 else [],
        py_limited_api=ABI3,
        extra_compile_args=COMPILE,
        extra_link_args=LINK,
    )
    modules: list[Any] = cythonize([fastpath], compiler_directives={"language_level": 3})
    return modules


def shared_files() -> list[tuple[str, list[str]]]:
    """Man pages and completions, under ``share`` of wherever the package is installed."""
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.glob("deploy/share/*/**/*")):
        if path.is_file():
            name = path.relative_to(ROOT)
            found.setdefault(str(name.parent.relative_to("deploy")), []).append(str(name))
    return list(found.items())


os.chdir(ROOT)
setup(
    data_files=shared_files(),
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy, "sdist": Sdist},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
