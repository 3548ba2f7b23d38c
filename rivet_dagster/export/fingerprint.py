"""The row fingerprint `rivet-row-1`: a hash of a table's logical rows.

Two tables with the same columns have the same fingerprint if they hold the same rows, each as often, whatever the
order of the rows, the file format, the chunking or the versions of the libraries that wrote them. It tells change
from no change; it is no protection against somebody who looks for collisions.

**Words.** A cell that is not NULL becomes words of 64 bits:

    family          Arrow types                         words
    bool            bool                                0 or 1
    int             int8 to int64, uint8 to uint64      the value, in two's complement of 64 bits
    float           float32, float64                    the bits of the value as float64; every NaN is
                                                        0x7ff8000000000000, -0.0 is not 0.0
    decimal(S)      decimal128, decimal256 of scale S   the unscaled value in two's complement of 128 bits (two
                                                        words) or 256 bits (four), the lowest word first
    date            date32                              days since 1970-01-01
    time            time64[us]                          microseconds since midnight
    timestamp       timestamp[us] without zone          microseconds since 1970-01-01T00:00
    timestamptz     timestamp[us] with any zone         microseconds since 1970-01-01T00:00Z
    uuid            fixed_size_binary[16], uuid         bytes 0 to 7 and bytes 8 to 15, each little-endian
    text            string, json                        XXH64 of the UTF-8 bytes with seed 0; their number
    binary          binary                              XXH64 of the bytes with seed 0; their number
    interval        struct of months int32, days        the three numbers, in two's complement of 64 bits; none
                    int32, microseconds int64           of them is NULL
    list(F)         list of elements of family F        the folded hash of the elements in each lane (below); their
                                                        number

Large and view types count as the plain ones, an extension type as its storage. Views of lists and lists of fixed size
are not covered.

**Lanes.** A row has two hashes, a lane each. Lane 0 has the seed 0, lane 1 the seed 0x9e3779b97f4a7c15. In a lane
of seed `s`, column number `n` (from 0 on) of family `f` has the key `k = XXH64("n:f", seed s)`: that of the text
`3:decimal(2)`, for instance. All arithmetic is modulo 2**64, `rot` rotates to the left, and the primes are XXH64's:

    P1 = 0x9e3779b185ebca87    P2 = 0xc2b2ae3d27d4eb4f    P3 = 0x165667b19e3779f9
    P4 = 0x85ebca77c2b2ae63    P5 = 0x27d4eb2f165667c5

A hash starts as `h = s + P5` and takes the words of the columns one after the other:

    a word w    h = rot(h ^ (rot((w + k) * P2, 31) * P1), 27) * P1 + P4
    NULL        h = rot(h ^ (k * P5), 11) * P1, once for every word that another value would have had

After the last column, XXH64's avalanche ends it:

    h = (h ^ (h >> 33)) * P2;  h = (h ^ (h >> 29)) * P3;  h = h ^ (h >> 32)

**Lists.** An element's hash in a lane is that of a row with this one cell: the same seed, key, words, NULL step and
avalanche, `k` being the list column's key. The elements' hashes `e` are folded in order, from `g = s + P5` on:
`g = rot(g ^ (rot(e * P2, 31) * P1), 27) * P1 + P4`.

**Fingerprint.** The number of rows, and for each lane the sum of its rows' hashes. As text: `rivet-row-1:` and the
sums of lane 0 and lane 1, as 16 hexadecimal digits each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rivet_dagster.errors import IntegrityError

ALGORITHM = "rivet-row-1"

_MASK = 2**64 - 1
_TEXT = re.compile(rf"{re.escape(ALGORITHM)}:([0-9a-f]{{16}})([0-9a-f]{{16}})")


@dataclass(frozen=True)
class Fingerprint:
    """Fingerprint of some rows; that of two sets of rows together is their sum.

    Attributes:
        rows: number of rows.
        lane0: sum of the rows' hashes in the first lane, modulo 2**64.
        lane1: the same in the second lane.
    """

    rows: int
    lane0: int
    lane1: int

    @classmethod
    def zero(cls) -> Fingerprint:
        """Fingerprint of no rows."""
        return cls(0, 0, 0)

    @classmethod
    def parse(cls, text: str, rows: int) -> Fingerprint:
        """What `str` wrote; RIVET_FINGERPRINT_UNKNOWN for any other text."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise IntegrityError(
                "RIVET_FINGERPRINT_UNKNOWN",
                f"{text!r} is no row fingerprint of the algorithm {ALGORITHM}.",
                "Use a version of rivet-dagster that knows its algorithm, or export the window again.",
            )
        return cls(rows, int(match[1], 16), int(match[2], 16))

    def __add__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(
            self.rows + other.rows, (self.lane0 + other.lane0) & _MASK, (self.lane1 + other.lane1) & _MASK
        )

    def __str__(self) -> str:
        return f"{ALGORITHM}:{self.lane0:016x}{self.lane1:016x}"
