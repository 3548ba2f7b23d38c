"""Compiled loops behind the row fingerprint; `fingerprint` says what they compute.

A block of rows has two arrays of running hashes, one a lane: `begin` starts them, `mix_one` and `mix_two` pass over
them column by column, `finish` ends them. These loops have no branches, so that the compiler turns them into vector
instructions. What a cell's word becomes in the first lane serves the row's hash and the column's checksum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rivet_dagster._jit import Bytes, helper, kernel, load_little_endian

Words = npt.NDArray[np.uint64]
Pair = tuple[np.uint64, np.uint64]
"""One number a lane: seeds, keys or sums."""
_Word = Any  # numpy.uint64, whose operators the type checker cannot follow

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)
_WORD_BITS = np.uint64(64)


@kernel
def begin(lanes: tuple[Words, Words], seeds: Pair) -> None:
    """Start every row's hashes."""
    first, second = lanes
    for row in range(first.size):
        first[row] = seeds[0] + _PRIME_5
        second[row] = seeds[1] + _PRIME_5


@kernel
def mix_one(lanes: tuple[Words, Words], keys: Pair, words: Words, valid: Bytes) -> _Word:
    """Mix cells of one word each, or one word of longer cells, into the running hashes of their rows.

    Args:
        lanes: the running hashes.
        keys: the column's key in each lane.
        words: the rows' words; whatever stands there for a NULL is left out.
        valid: 0 for NULL, else 1; empty where the column has no NULL.

    Returns:
        Sum of the hashes in the first lane that rows of only these words would have.
    """
    first, second = lanes
    start, total = _PRIME_5, np.uint64(0)
    null = _avalanche(_null_step(start, keys[0]))
    for row in range(words.size):
        rounded = _rounded(words[row] + keys[0])
        one = _join(first[row], rounded)
        two = _step(second[row], words[row] + keys[1])
        cell = _avalanche(_join(start, rounded))
        if valid.size > 0:
            one = one if valid[row] else _null_step(first[row], keys[0])
            two = two if valid[row] else _null_step(second[row], keys[1])
            cell = cell if valid[row] else null
        first[row] = one
        second[row] = two
        total += cell
    return total


@kernel
def mix_two(lanes: tuple[Words, Words], keys: Pair, words: tuple[Words, Words], valid: Bytes) -> _Word:
    """Mix cells of two words each; otherwise as `mix_one`."""
    first, second = lanes
    start, total = _PRIME_5, np.uint64(0)
    null = _avalanche(_null_step(_null_step(start, keys[0]), keys[0]))
    for row in range(first.size):
        early, late = _rounded(words[0][row] + keys[0]), _rounded(words[1][row] + keys[0])
        one = _join(_join(first[row], early), late)
        two = _step(_step(second[row], words[0][row] + keys[1]), words[1][row] + keys[1])
        cell = _avalanche(_join(_join(start, early), late))
        if valid.size > 0:
            one = one if valid[row] else _null_step(_null_step(first[row], keys[0]), keys[0])
            two = two if valid[row] else _null_step(_null_step(second[row], keys[1]), keys[1])
            cell = cell if valid[row] else null
        first[row] = one
        second[row] = two
        total += cell
    return total


@kernel
def finish(lanes: tuple[Words, Words]) -> Pair:
    """End every row's hashes, and add them up in each lane."""
    first, second = lanes
    first_sum = second_sum = np.uint64(0)
    for row in range(first.size):
        first_sum += _avalanche(first[row])
        second_sum += _avalanche(second[row])
    return first_sum, second_sum


@kernel
def fold(lanes: tuple[Words, Words], seeds: Pair, offsets: npt.NDArray[np.int64], folded: tuple[Words, Words]) -> None:
    """End the hashes of lists' elements, and fold those of each `offsets[k]:offsets[k + 1]` into one a lane."""
    first, second = lanes
    for value in range(offsets.size - 1):
        one, two = seeds[0] + _PRIME_5, seeds[1] + _PRIME_5
        for element in range(offsets[value], offsets[value + 1]):
            one = _step(one, _avalanche(first[element]))
            two = _step(two, _avalanche(second[element]))
        folded[0][value], folded[1][value] = one, two


@kernel
def hash_values(data: Bytes, offsets: npt.NDArray[np.int64], hashes: Words) -> None:
    """XXH64 with seed 0 of each `data[offsets[k]:offsets[k + 1]]`."""
    for value in range(hashes.size):
        hashes[value] = _xxh64(data, offsets[value], offsets[value + 1] - offsets[value])


@helper
def _xxh64(data: Bytes, at: int, size: int) -> _Word:
    end = at + size
    if size >= 32:
        hash_ = _stripes(data, at, size)
        at += size - size % 32
    else:
        hash_ = _PRIME_5
    hash_ += np.uint64(size)
    while at + 8 <= end:
        hash_ = _step(hash_, load_little_endian(data, at, np.uint64))
        at += 8
    if at + 4 <= end:
        hash_ ^= np.uint64(load_little_endian(data, at, np.uint32)) * _PRIME_1
        hash_ = _rotate(hash_, 23) * _PRIME_2 + _PRIME_3
        at += 4
    while at < end:
        hash_ ^= np.uint64(data[at]) * _PRIME_5
        hash_ = _rotate(hash_, 11) * _PRIME_1
        at += 1
    return _avalanche(hash_)


@helper
def _stripes(data: Bytes, at: int, size: int) -> _Word:
    """XXH64's four running sums over stripes of 32 bytes, merged."""
    sum_1 = _PRIME_1 + _PRIME_2
    sum_2 = _PRIME_2
    sum_3 = np.uint64(0)
    sum_4 = np.uint64(0) - _PRIME_1
    for stripe in range(at, at + size - 31, 32):
        sum_1 = _round(sum_1, load_little_endian(data, stripe, np.uint64))
        sum_2 = _round(sum_2, load_little_endian(data, stripe + 8, np.uint64))
        sum_3 = _round(sum_3, load_little_endian(data, stripe + 16, np.uint64))
        sum_4 = _round(sum_4, load_little_endian(data, stripe + 24, np.uint64))
    merged = _rotate(sum_1, 1) + _rotate(sum_2, 7) + _rotate(sum_3, 12) + _rotate(sum_4, 18)
    for part in (sum_1, sum_2, sum_3, sum_4):
        merged = (merged ^ _round(np.uint64(0), part)) * _PRIME_1 + _PRIME_4
    return merged


@helper
def _round(running: _Word, word: _Word) -> _Word:
    return _rotate(running + word * _PRIME_2, 31) * _PRIME_1


@helper
def _step(running: _Word, word: _Word) -> _Word:
    """XXH64's step for eight bytes: a bijection of either argument while the other one is fixed."""
    return _join(running, _rounded(word))


@helper
def _rounded(word: _Word) -> _Word:
    """What a word becomes before it meets the running hash."""
    return _round(np.uint64(0), word)


@helper
def _join(running: _Word, rounded: _Word) -> _Word:
    return _rotate(running ^ rounded, 27) * _PRIME_1 + _PRIME_4


@helper
def _null_step(running: _Word, key: _Word) -> _Word:
    """XXH64's step for a single byte, with the column's key in its place."""
    return _rotate(running ^ (key * _PRIME_5), 11) * _PRIME_1


@helper
def _avalanche(running: _Word) -> _Word:
    running = (running ^ (running >> np.uint64(33))) * _PRIME_2
    running = (running ^ (running >> np.uint64(29))) * _PRIME_3
    return running ^ (running >> np.uint64(32))


@helper
def _rotate(word: _Word, bits: int) -> _Word:
    return (word << np.uint64(bits)) | (word >> (_WORD_BITS - np.uint64(bits)))
