"""What the compiled loops share: how they are compiled, and memory accesses that numpy has no words for.

Importing this module imports numba.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.core.caching import IndexDataCacheFile, _CacheLocator
from numba.core.cgutils import raw_memcpy
from numba.extending import intrinsic

from rivet_dagster._jit_cache import kernel_folder

Bytes = npt.NDArray[np.uint8]

_settings: Any = numba.config
_NumbasFiles: Any = IndexDataCacheFile

_Function = TypeVar("_Function", bound=Callable[..., Any])


class CodeFiles(_NumbasFiles):  # type: ignore[misc]
    """A function's code on disk, which several processes may write at the same time.

    Numba numbers the files of a function and names a file in the index before it writes it. Processes that compile
    for different types at once then take the same number, and the index may name code for other types, or of an older
    source: calls would give wrong values. Here every file has a name of its own, and is complete before it is named.
    Of two processes that write the index at once one may be forgotten; that costs a compilation.
    """

    def save(self, key: Any, data: Any) -> None:
        """Keep `data` as the code for `key`."""
        if Path(self._index_path).exists() and not self._load_index():
            self._clear()
        name = self._data_name(uuid.uuid4().int)
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})

    def _clear(self) -> None:
        """Delete what an older source left. Whoever misses a file compiles again."""
        base = str(self._index_name).removesuffix("nbi")
        for file in Path(self._cache_path).iterdir():
            if file.name.startswith(base) and file.suffix == ".nbc":
                with suppress(FileNotFoundError):
                    file.unlink()


def kernel(function: _Function) -> _Function:
    """Compile on first use, keep the machine code on disk, and let other threads run meanwhile."""
    return _compiled(function)


def helper(function: _Function) -> _Function:
    """The same for what only kernels call: nothing is compiled that would let Python or C call it."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _compiled(function: _Function, **options: bool) -> _Function:
    chosen = _settings.CACHE_DIR
    if not chosen:
        file = inspect.getfile(function)
        subfolder = _CacheLocator.get_suitable_cache_subpath(file)  # type: ignore[no-untyped-call]
        _settings.CACHE_DIR = kernel_folder(file, subfolder) or ""
    try:
        compiler: Any = numba.njit
        compiled = compiler(cache=True, nogil=True, **options)(function)
        compiled._cache._cache_file.__class__ = CodeFiles
        return cast("_Function", compiled)
    finally:
        _settings.CACHE_DIR = chosen


def _load(page: Any, at: Any, of: Any, swapped: bool) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = context.get_value_type(of.dtype).as_pointer()
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), pointer)
        loaded = builder.load(address, align=1)
        return builder.bswap(loaded) if swapped else loaded

    return of.dtype(page, at, of), generate


def _big_endian(_typing: Any, page: Any, at: Any, of: Any) -> Any:
    return _load(page, at, of, swapped=True)


def _little_endian(_typing: Any, page: Any, at: Any, of: Any) -> Any:
    return _load(page, at, of, swapped=False)


load_big_endian = cast("Callable[[Bytes, int, Any], int]", intrinsic(_big_endian))
"""`load_big_endian(page, at, of)`: the integer at an unchecked place; `of` is its type or an array of it."""

load_little_endian = cast("Callable[[Bytes, int, Any], np.uint64]", intrinsic(_little_endian))
"""The same for little-endian integers, on a little-endian machine."""


def _memcpy(_typing: Any, target: Any, to: Any, source: Any, at: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def address(array: int, index: int) -> Any:
            struct = context.make_array(signature.args[array])(context, builder, arguments[array])
            return builder.gep(struct.data, [arguments[index]])

        raw_memcpy(builder, address(0, 1), address(2, 3), arguments[4], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(target, to, source, at, size), generate


copy = cast("Callable[[Bytes, int, Bytes, int, int], None]", intrinsic(_memcpy))
"""`copy(target, to, source, at, size)`: one memcpy between unchecked places.

A loop or a slice costs up to ten times as much on the short texts of a table.
"""
