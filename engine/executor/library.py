"""Builds the native executor with whatever C++ compiler is there, once per instruction set, and
keeps it in the user's cache.

The instruction set is chosen from what the processor has at run time, never from what the builder
had. The file's name has a digest of all sources and flags and one of the compiler, so an edited
source or another compiler gets another file. Where there is no compiler (any more), a file that was
built of the same sources serves.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("executor.cpp")
"""The one translation unit; it includes the headers beside it."""
COMMON_FLAGS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fPIC",
    "-shared",
    "-pthread",
    "-Wno-psabi",
)
COMPILE_DEADLINE_S = 300


class NotNative(Exception):
    """The reason why the native executor cannot be had here."""


@dataclass(frozen=True)
class InstructionSet:
    """The instructions a compiler may use, and the processor flags (as Linux names them)
    they need.
    """

    name: str
    needs: frozenset[str]
    flags: tuple[str, ...]


_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "fma", "f16c")
_BF16 = (*_AVX512, "avx512_bf16", "avx512_vnni")
_AMX = (*_BF16, "amx_tile", "amx_bf16", "amx_int8")


def _instruction_set(name: str, needs: tuple[str, ...]) -> InstructionSet:
    spelled = {"avx512_bf16": "avx512bf16", "avx512_vnni": "avx512vnni"}
    flags = tuple(f"-m{spelled.get(flag, flag).replace('_', '-')}" for flag in needs)
    return InstructionSet(name, frozenset(needs), flags)


INSTRUCTION_SETS = (
    _instruction_set("amx", _AMX),
    _instruction_set("avx512_bf16", _BF16),
    _instruction_set("avx512", _AVX512),
    _instruction_set("avx2", ("avx2", "fma", "f16c")),
)
"""Best first."""


def usable_sets(features: frozenset[str]) -> list[InstructionSet]:
    """List the instruction sets that a processor with these features runs, best first."""
    return [each for each in INSTRUCTION_SETS if each.needs <= features]


def lacks_compiler(features: frozenset[str]) -> bool:
    """Return whether only a compiler is missing on a processor with these features."""
    sets = usable_sets(features)
    return bool(sets) and find_compiler() is None and not _built_before(_stem(sets[0], ()))


def find_compiler() -> tuple[str, ...] | None:
    """Find the command of a C++ compiler: $CXX, g++, clang++, or that of the PyPI package
    ziglang.
    """
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return (name,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "c++", "-target", f"x86_64-linux-gnu.{_glibc()}")
    return None


def open_library(chosen: InstructionSet, extra_flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Load the executor for an instruction set, building it first if need be. Raises NotNative."""
    path = library_path(chosen, extra_flags)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NotNative(f"{path} cannot be loaded: {error}") from error
    library.lorikeet_create.restype = ctypes.c_void_p
    library.lorikeet_create.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    library.lorikeet_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.lorikeet_draw.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int64,
    ]
    library.lorikeet_destroy.argtypes = [ctypes.c_void_p]
    return library


def library_path(chosen: InstructionSet, extra_flags: tuple[str, ...] = ()) -> Path:
    """Return the path of the built executor, building it if it is not there. Raises NotNative."""
    compiler = find_compiler()
    stem = _stem(chosen, extra_flags)
    if compiler is None:
        built = _built_before(stem)
        if not built:
            raise NotNative(
                "there is no C++ compiler; install g++ or clang++, or run scripts/setup --force,"
                " which borrows one"
            )
        return built[0]
    path = cache_folder() / f"{stem}-{_digest(*compiler)}.so"
    if not path.is_file():
        _build(path, compiler, _flags(chosen, extra_flags))
    return path


def _flags(chosen: InstructionSet, extra_flags: tuple[str, ...]) -> tuple[str, ...]:
    return (*COMMON_FLAGS, *chosen.flags, *extra_flags)


def _stem(chosen: InstructionSet, extra_flags: tuple[str, ...]) -> str:
    """Return how the file names begin of everything that any compiler makes of this source."""
    texts = (path.read_text() for path in sorted(SOURCE.parent.glob("*.[ch]pp")))
    digest = _digest(*_flags(chosen, extra_flags), *texts)
    return f"executor-{chosen.name}-{digest}"


def _built_before(stem: str) -> list[Path]:
    return sorted(cache_folder().glob(f"{stem}-*.so"))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def cache_folder() -> Path:
    """Return the folder in which built executors are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorikeet"


def _build(path: Path, compiler: tuple[str, ...], flags: tuple[str, ...]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            # Built beside its place and moved there: another process never loads half a file.
            done = subprocess.run(
                [*compiler, *flags, str(SOURCE), "-o", str(fresh)],
                capture_output=True,
                text=True,
                timeout=COMPILE_DEADLINE_S,
            )
            if done.returncode != 0:
                raise NotNative(f"{compiler[0]} failed: {done.stderr.strip()[-400:]}")
            fresh.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotNative(f"{compiler[0]} failed: {error}") from error


def _glibc() -> str:
    version = os.confstr("CS_GNU_LIBC_VERSION") or "glibc 2.28"
    return version.split()[-1]
