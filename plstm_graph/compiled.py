"""This package compiles with Numba as follows: cached on disk, without the GIL, and in seconds.

Functions that only compiled code calls are compiled without wrappers for Python, which halves the time of
compilation. They are inlined into the kernels that call them: LLVM then keeps array elements in registers,
which saves 25 % of a kernel's time on a batch of molecules. Therefore the cache depends on the sources of all
compiled code, and not on the function's source alone.
"""

import hashlib
import logging
import os
import pickle
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

_log = logging.getLogger(__name__)

#: Numba's settings, which come from the environment; their names are no part of the module's type.
_config: Any = numba.config


def _sources() -> dict[str, bytes]:
    """The files that hold compiled code: those that name this module, and this module."""
    this = Path(__file__)
    found = {path: path.read_bytes() for path in sorted(this.parent.rglob("*.py"))}
    return {
        path.relative_to(this.parent).as_posix(): source
        for path, source in found.items()
        if path == this or __name__.encode() in source
    }


_SOURCES = _sources()

#: What every compiled function is made from.
_MADE_FROM = (numba.__version__, sys.version, hashlib.sha256(repr(_SOURCES).encode()).hexdigest())


def _make_folder(folder: Path) -> None:
    """Make a folder; ``OSError`` if that cannot be done."""
    folder.mkdir(parents=True, exist_ok=True)


def _make_private_folder(folder: Path) -> None:
    """Make a folder inside one that belongs to this user alone; ``OSError`` if it does not.

    The temporary folder is everybody's, so whoever is first may have made what looks like ours, or a link
    to something else, and what is cached runs as code.
    """
    parent, user = folder.parent, os.geteuid()
    around = parent.parent.stat()
    sticky = around.st_mode & stat.S_ISVTX
    if around.st_uid not in (0, user) or (around.st_mode & 0o022 and not sticky):
        raise PermissionError(f"others could replace folders in {parent.parent}")
    parent.mkdir(mode=0o700, exist_ok=True)
    found = parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        raise PermissionError(f"{parent} is not this user's alone")
    folder.mkdir(exist_ok=True)


_CacheFolder = tuple[Path, Callable[[Path], None]]


@cache
def _cache_folder(sources: Path) -> _CacheFolder | None:
    """Return the folder that keeps the compiled functions of a folder of sources, and how it is made.

    In this order: ``NUMBA_CACHE_DIR``, where it is set; beside the sources; the user's cache; a folder of
    this user's own below the temporary one. ``None`` if none of them can be written, or if the sources
    cannot be read, as inside an archive.
    """
    if not _SOURCES:
        _say("plstm_graph cannot read its own sources, so that every process compiles the kernels again.")
        return None
    # Several environments and copies may share a cache.
    name = f"{sources.name}_{hashlib.sha256(os.fsencode(sources)).hexdigest()[:32]}"
    user_wide = Path(AppDirs("numba", appauthor=False).user_cache_dir)
    folders: list[_CacheFolder] = [(sources / "__pycache__", _make_folder)]
    if _config.CACHE_DIR:
        folders.insert(0, (Path(_config.CACHE_DIR).absolute() / name, _make_folder))
    if user_wide.is_absolute():  # without a home it is a folder named ~, wherever the process stands
        folders.append((user_wide / name, _make_folder))
    for folder, make in folders:
        if _can_be_written(folder, make):
            return folder, make
    return _temporary_folder(name)


def _temporary_folder(name: str) -> _CacheFolder | None:
    """The last of the folders, or ``None``; either is said."""
    if hasattr(os, "geteuid"):  # Windows gives every user a temporary folder, and a cache that can be written
        with suppress(OSError):  # from gettempdir, which finds no folder that can be written
            folder = Path(tempfile.gettempdir()) / f"plstm_graph-{os.geteuid()}" / name
            if _can_be_written(folder, _make_private_folder):
                _say(
                    f"plstm_graph keeps its compiled kernels in {folder.parent}, as it can write neither its "
                    "own folder nor the user's cache; set NUMBA_CACHE_DIR to a folder where they may stay."
                )
                return folder, _make_private_folder
    _say(
        "plstm_graph finds no folder that it can write, so that every process compiles the kernels again; "
        "set NUMBA_CACHE_DIR to one."
    )
    return None


def _can_be_written(folder: Path, make: Callable[[Path], None]) -> bool:
    try:
        make(folder)
        tempfile.TemporaryFile(dir=folder).close()  # permissions do not tell of a disk mounted read-only
    except OSError:
        return False
    return True


@cache
def _say(sentence: str) -> None:
    """Log a sentence, once."""
    _log.warning(sentence)


class _Cache(NullCache):
    """Keeps a function as compiled in a file for every signature and kind of processor.

    A file begins with a hash of its content and of all that the content was compiled from: what is
    damaged or was made from other sources is compiled again, and takes the old file's place. Numba's own
    cache looks at the source of the function alone, raises what a damaged file makes ``pickle`` raise, and
    lets processes that start side by side give two signatures the same file.
    """

    def __init__(self, function: Callable[..., Any], folder: _CacheFolder) -> None:
        self._folder, self._make = folder
        self._code = function.__code__
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

    @property
    def cache_path(self) -> str:
        return str(self._folder)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        target_context.refresh()  # now it knows what is loaded by name
        key = self._key(sig, target_context.codegen())
        try:
            self._make(self._folder)
            sealed = self._file(key).read_bytes()
        except OSError:
            return None
        content = sealed[hashlib.sha256().digest_size :]
        if sealed != self._seal(key, content):
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(content))

    def save_overload(self, sig: Any, cres: Any) -> None:
        if cres.lifted or cres.library.has_dynamic_globals:
            return  # it holds addresses of this process
        key = self._key(sig, cres.library.codegen)
        file = self._file(key)
        unfinished = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
        try:
            self._make(self._folder)
            try:
                unfinished.write_bytes(self._seal(key, dumps(cres._reduce())))
                unfinished.replace(file)  # at once: another process reads all of it or nothing
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:  # such as a full disk, which is no reason not to compute
            _say(f"plstm_graph cannot keep its compiled kernels in {self._folder}: {error.strerror}.")

    def _key(self, sig: Any, codegen: Any) -> str:
        return repr((sig, codegen.magic_tuple(), _config.BOUNDSCHECK, sys.implementation.cache_tag))

    def _file(self, key: str) -> Path:
        return self._folder / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc"

    def _seal(self, key: str, content: bytes) -> bytes:
        made_from = repr((_MADE_FROM, self._name, self._code.co_firstlineno, key))
        return hashlib.sha256(made_from.encode() + content).digest() + content


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function when it is first called, and keep what it was compiled to."""
    if _config.DISABLE_JIT:
        return np.errstate(all="ignore")(function)  # integers that wrap around are none of NumPy's business
    compiled: Any = njit(function, nogil=True, **options)
    folder = _cache_folder(Path(function.__code__.co_filename).absolute().parent)
    if folder is not None:
        compiled._cache = _Cache(function, folder)  # where njit(cache=True) puts Numba's own
    return compiled


def as_python(function: Any) -> Any:
    """The function that was compiled, as Python runs it: on whole arrays, for one."""
    return getattr(function, "py_func", function)


_inner: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

#: Reassociation lets sums use vector registers; NaN and infinity keep their meaning.
ARITHMETIC_FLAGS = ("reassoc", "contract", "nsz")
_arithmetic: dict[str, Any] = {"error_model": "numpy", "fastmath": set(ARITHMETIC_FLAGS)}

#: Integer code on structure, called from Python or only from compiled code.
structure: Any = _compile
structure_inner: Any = partial(structure, **_inner)

#: Floating-point kernels, called from Python or only from compiled code.
kernel: Any = partial(_compile, **_arithmetic)
kernel_inner: Any = partial(kernel, forceinline=True, **_inner)
