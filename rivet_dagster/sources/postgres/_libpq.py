"""The rows of COPY TO STDOUT, taken from libpq by compiled code.

libpq gives one row a call. The kernel here makes these calls on the driver's own connection, so that TLS,
authentication, Unix sockets and cancellation stay what they are. docs/explanation/reading.md has the figures.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import psycopg
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.cgutils import raw_memcpy
from numba.extending import intrinsic
from psycopg import pq

from rivet_dagster._jit import Bytes, kernel

Words = npt.NDArray[np.int64]

# Indices of `functions`.
GET_COPY_DATA = 0
CONSUME_INPUT = 1
FREEMEM = 2
_NAMES = ("PQgetCopyData", "PQconsumeInput", "PQfreemem")

# Indices of `state`: address of the row that is not copied yet, or 0; its size, or why there is none; rows copied.
ROW = 0
SIZE = 1
ROWS = 2

# What PQgetCopyData says in place of a size.
NOTHING_YET = 0
END = -1
LOST = -2

# So many looks without a row, each with room for 8 KiB, and nothing is left: libpq reads on by itself from 32 KiB.
_EMPTY_LOOKS = 5

# The server sends 8 KiB at a time. Unless there is time for more to arrive, each costs both sides a switch of context.
PAUSE_SECONDS = 0.0005


def find_libpq(pgconn: pq.abc.PGconn) -> Words | None:
    """Addresses of `_NAMES` in the very libpq that `pgconn` belongs to; None where there is any doubt of that."""
    if sys.platform != "linux":
        return None
    module = sys.modules[type(pgconn).__module__]
    try:
        library = _library(module)
        if library.PQlibVersion() != module.version():
            return None
        return np.array([_address(library, name) for name in _NAMES], np.int64)
    except (AttributeError, OSError, TypeError):  # a driver of another make, or with libpq inside and without names
        return None


def _library(module: ModuleType) -> ctypes.CDLL:
    """A handle that finds the functions which the driver's module was linked to."""
    if module.__name__ == "psycopg.pq.pq_ctypes":
        return cast("ctypes.CDLL", module.impl.pq)
    # Names are looked up in the loaded module and in what it was loaded with: in the order that the linker went by.
    return ctypes.CDLL(module.__file__, mode=os.RTLD_NOLOAD | os.RTLD_NOW)


def _address(library: ctypes.CDLL, name: str) -> int:
    """Address of a function; AttributeError where it has none, or the whole process sees another of that name."""
    address = _value(library, name)
    try:
        seen_by_all = _value(ctypes.CDLL(None), name)
    except AttributeError:
        return address
    if seen_by_all != address:
        raise AttributeError(name)
    return address


def _value(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


_POINTER = ir.IntType(8).as_pointer()
_INT = ir.IntType(32)


def _call(builder: Any, function: Any, result: Any, *arguments: Any) -> Any:
    """Call the C function at an address. Addresses are never part of the code, which is cached for other processes."""
    prototype = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.inttoptr(function, prototype.as_pointer()), arguments)


def _get(_typing: Any, function: Any, connection: Any, state: Any, wait: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        size = _call(
            builder,
            arguments[0],
            _INT,
            builder.inttoptr(arguments[1], _POINTER),
            builder.bitcast(row, _POINTER.as_pointer()),
            builder.zext(builder.not_(arguments[3]), _INT),
        )
        return builder.sext(size, ir.IntType(64))

    return types.int64(function, connection, state, wait), generate


_get_copy_data = cast("Callable[[int, int, Words, bool], int]", intrinsic(_get))
"""`_get_copy_data(function, connection, state, wait)`: PQgetCopyData; it sets `state[ROW]`."""


def _on_pointer(_typing: Any, function: Any, pointer: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        _call(builder, arguments[0], _INT, builder.inttoptr(arguments[1], _POINTER))
        return context.get_dummy_value()

    return types.void(function, pointer), generate


_call_on = cast("Callable[[int, int], None]", intrinsic(_on_pointer))
"""`_call_on(function, pointer)`: a function of one pointer; what it returns is dropped."""


def _memcpy(_typing: Any, target: Any, to: Any, address: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        source = builder.inttoptr(arguments[2], data.type)
        raw_memcpy(builder, builder.gep(data, [arguments[1]]), source, arguments[3], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(target, to, address, size), generate


_copy_from = cast("Callable[[Bytes, int, int, int], None]", intrinsic(_memcpy))
"""`_copy_from(target, to, address, size)`: one memcpy to an unchecked place."""


@kernel
def take_rows(functions: Words, connection: int, state: Words, buffer: Bytes, used: int) -> int:
    """Append rows to `buffer` until none is there yet, the stream ends or is lost, or a row does not fit.

    Waits for the first row, unless one is left over.

    Returns:
        Bytes in use. `state` says why it stopped: a row in ROW did not fit, or SIZE is no size.
    """
    looks = 0
    if state[ROW] == 0:
        # A lost connection is seen by the next call.
        _call_on(functions[CONSUME_INPUT], connection)
        state[SIZE] = _get_copy_data(functions[GET_COPY_DATA], connection, state, True)
    while state[SIZE] >= 0:
        if state[SIZE] == NOTHING_YET:
            if looks == _EMPTY_LOOKS:
                break
            looks += 1
            _call_on(functions[CONSUME_INPUT], connection)
        else:
            if used + state[SIZE] > buffer.size:
                break
            _copy_from(buffer, used, state[ROW], state[SIZE])
            _call_on(functions[FREEMEM], state[ROW])
            state[ROW] = 0
            state[ROWS] += 1
            used += state[SIZE]
            looks = 0
        state[SIZE] = _get_copy_data(functions[GET_COPY_DATA], connection, state, False)
    return used


def warm() -> None:
    """Load the kernel, compiling it into numba's cache if it is not there. Needs no connection and no libpq."""
    # A row that does not fit: it returns before it calls anything.
    take_rows(np.zeros(3, np.int64), 0, np.ones(3, np.int64), np.empty(0, np.uint8), 0)


def _handle(pgconn: Any) -> int:
    """Address of libpq's connection; 0 once it is closed, which libpq's functions refuse in good order."""
    return pgconn.pgconn_ptr or 0


class RowReader:
    """Takes the rows of one COPY after another from a connection."""

    def __init__(self, functions: Words, pgconn: pq.abc.PGconn) -> None:
        self._functions = functions
        self._pgconn = pgconn
        self._state = np.zeros(3, np.int64)

    @property
    def rows(self) -> int:
        """Rows appended so far, by all calls."""
        return int(self._state[ROWS])

    def read(self, buffer: Bytes, used: int) -> tuple[int, int]:
        """Append rows to `buffer`, which holds `used` bytes already, until the stream ends or a row does not fit.

        The interpreter runs between looks at the connection: it hears signals while data flow.

        Returns:
            Bytes in use, and the size of the row that did not fit. The next call begins with that row; 0 at the end.

        Raises:
            psycopg.OperationalError: the connection is lost.
        """
        state, address = self._state, _handle(self._pgconn)
        while True:
            used = take_rows(self._functions, address, state, buffer, used)
            if state[ROW]:
                return used, int(state[SIZE])
            if state[SIZE] == LOST:
                raise psycopg.OperationalError(f"receiving copy data failed: {self._pgconn.get_error_message()}")
            if state[SIZE] == END:
                return used, 0
            time.sleep(PAUSE_SECONDS)

    def drop_row(self) -> None:
        """Give up the row that did not fit, if there is one."""
        address = int(self._state[ROW])
        self._state[ROW] = 0
        if address:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(self._functions[FREEMEM]))(address)
