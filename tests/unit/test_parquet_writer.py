"""Equal batches give equal bytes: in one process, in several, and from one release of this package to the next."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from rivet_dagster.formats.parquet import ParquetPartWriter, read_batches

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("golden_parquet.json")
ROWS = 6000


def fixed_batches() -> list[pa.RecordBatch]:
    """Two batches with every type that an export has; the numbers come from a small generator of their own."""
    state = 1

    def draw(bound: int) -> int:
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 16) % bound

    def column(kind: pa.DataType, value: Any, missing: int = 0) -> pa.Array[Any]:
        values = [None if missing and draw(missing) == 0 else value(n) for n in range(ROWS)]
        if isinstance(kind, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
        return pa.array(values, kind)

    utc = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
    span = pa.struct([("months", pa.int32()), ("days", pa.int32()), ("microseconds", pa.int64())])
    offsets = pa.array(range(ROWS + 1), pa.int32())
    uuids = column(pa.uuid(), lambda n: draw(2**128).to_bytes(16, "big"), 5)
    columns: dict[str, pa.Array[Any]] = {
        "id": column(pa.int64(), lambda n: n * 3),
        "small": column(pa.int16(), lambda n: draw(100), 5),
        "int": column(pa.int32(), lambda n: draw(2**30)),
        "oid": column(pa.uint32(), lambda n: draw(2**32)),
        "flag": column(pa.bool_(), lambda n: draw(2) == 0, 9),
        "real": column(pa.float32(), lambda n: draw(1000) / 4, 3),
        "double": column(pa.float64(), lambda n: draw(2**40) / 1024),
        "price": column(pa.decimal128(9, 2), lambda n: Decimal(draw(10**9)).scaleb(-2)),
        "amount": column(pa.decimal128(38, 10), lambda n: Decimal(draw(10**18)).scaleb(-10), 4),
        "huge": column(pa.decimal256(60, 0), lambda n: Decimal(draw(10**18)) * 10**12),
        "day": column(pa.date32(), lambda n: dt.date(2000, 1, 1) + dt.timedelta(draw(5000))),
        "time": column(pa.time64("us"), draw_time := lambda n: dt.time(draw(24), draw(60), draw(60), draw(10**6))),
        "at": column(pa.timestamp("us", "UTC"), lambda n: utc + dt.timedelta(seconds=n, microseconds=draw(900)), 8),
        "local": column(pa.timestamp("us"), lambda n: dt.datetime.combine(dt.date(2024, 2, 29), draw_time(n))),
        "key": uuids,
        "kind": column(pa.string(), lambda n: ("click", "view", "größer")[draw(3)]),
        "note": column(pa.string(), lambda n: f"note {draw(10**9)} of {n}", 6),
        "raw": column(pa.binary(), lambda n: draw(2**128).to_bytes(16, "big") * (1 + draw(2)), 7),
        "json": column(pa.json_(), lambda n: json.dumps({"n": n, "x": draw(1000)})),
        "span": column(span, lambda n: {"months": draw(12), "days": draw(31), "microseconds": draw(10**10)}, 5),
        "tags": column(pa.list_(pa.string()), lambda n: [f"t{draw(4)}" if draw(5) else None] * draw(4), 6),
        "numbers": column(pa.list_(pa.int64()), lambda n: [draw(2**50) for _ in range(draw(3))]),
        "keys": pa.ListArray.from_arrays(offsets, uuids),
        'dotted.name "ü"': column(pa.int32(), lambda n: n // 100),
    }
    whole = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    return [whole.slice(0, ROWS - 1000), whole.slice(ROWS - 1000)]


def write_fixed(path: Path) -> str:
    """Write the fixed batches; gives the file's xxh3-128."""
    batches = fixed_batches()
    writer = ParquetPartWriter(path, batches[0], compression="zstd", level=1)
    for batch in batches:
        writer.write(batch)
    writer.close()
    return xxhash.xxh3_128_hexdigest(path.read_bytes())


def run_python(program: str, *arguments: str, **environment: str) -> str:
    """What a program prints that another Python runs."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def test_equal_batches_give_equal_bytes(tmp_path: Path) -> None:
    assert write_fixed(tmp_path / "a") == write_fixed(tmp_path / "b")


def test_other_processes_give_equal_bytes(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.unit.test_parquet_writer import write_fixed;"
        "print(write_fixed(Path(sys.argv[1])))"
    )
    found = {run_python(program, str(tmp_path / seed), PYTHONHASHSEED=seed) for seed in ("1", "2")}
    assert found == {write_fixed(tmp_path / "here")}


def test_the_bytes_are_those_of_earlier_releases(tmp_path: Path) -> None:
    """Parts are named after their bytes: with others, exporting an unchanged table again would write it anew."""
    major = pa.__version__.split(".")[0]
    golden = json.loads(GOLDEN.read_text())
    found = write_fixed(tmp_path / "part")
    assert major in golden, (
        f"pyarrow {major} is new here. Check that the other tests of tests/unit/test_parquet_*.py and "
        f'tests/unit/test_encodings.py pass with it, then add "{major}": "{found}" to {GOLDEN.name}.'
    )
    assert found == golden[major]


def test_the_rows_come_back(tmp_path: Path) -> None:
    write_fixed(tmp_path / "part")
    assert [batch.num_rows for batch in read_batches(tmp_path / "part")] == [ROWS - 1000, 1000]
    for read, batch in zip(read_batches(tmp_path / "part"), fixed_batches(), strict=True):
        assert read.schema == batch.schema
        assert read.to_pylist() == batch.to_pylist()


def test_every_batch_is_one_row_group(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict({"n": list(range(1_200_000))})
    writer = ParquetPartWriter(tmp_path / "part", batch, compression="none", level=None)
    sizes = [writer.bytes_written]
    for rows in (1_200_000, 0, 7):
        writer.write(batch.slice(0, rows))
        sizes.append(writer.bytes_written)
    writer.close()
    metadata = pq.read_metadata(tmp_path / "part")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1_200_000, 0, 7]
    assert writer.rows == 1_200_007
    assert sizes == sorted(sizes)


def test_an_abandoned_file_is_left_as_it_is(tmp_path: Path) -> None:
    batch = fixed_batches()[0]
    writer = ParquetPartWriter(tmp_path / "part", batch, compression="zstd", level=1)
    writer.write(batch)
    writer.abandon()
    writer.abandon()
    done = ParquetPartWriter(tmp_path / "done", batch, compression="zstd", level=1)
    done.write(batch)
    done.close()
    content = (tmp_path / "done").read_bytes()
    done.abandon()
    assert (tmp_path / "done").read_bytes() == content


# The batch is in another pool than the encoders' memory, whose peak is what is asked for.
_MEMORY = """
import sys
from pathlib import Path
import pyarrow as pa
from rivet_dagster.formats.parquet import ParquetPartWriter
texts = [f"{row}".ljust(160) for row in range(100_000)]
columns = {f"c{n}": pa.array(texts, memory_pool=pa.system_memory_pool()) for n in range(4)}
batch = pa.RecordBatch.from_pydict(columns)
pa.set_memory_pool(pa.mimalloc_memory_pool())
writer = ParquetPartWriter(Path(sys.argv[1]), batch, compression="none", level=None)
writer.write(batch)
writer.close()
print(batch.nbytes, pa.default_memory_pool().max_memory())
"""


def test_encoding_takes_little_memory_beside_the_batch(tmp_path: Path) -> None:
    """Columns are encoded one after the other: what is held is one column's pages, not a row group."""
    batch, peak = map(int, run_python(_MEMORY, str(tmp_path / "part")).split())
    assert 0 < peak < batch / 4


@pytest.mark.parametrize("level", [None, 3, 19])
def test_the_level_is_taken_where_there_is_one(tmp_path: Path, level: int | None) -> None:
    batch = fixed_batches()[1]
    sizes = {}
    for codec in ("zstd", "gzip", "snappy", "lz4", "none"):
        if codec == "gzip" and level == 19:
            continue
        writer = ParquetPartWriter(tmp_path / codec, batch, compression=codec, level=level)  # type: ignore[arg-type]
        writer.write(batch)
        writer.close()
        sizes[codec] = (tmp_path / codec).stat().st_size
    assert sizes["zstd"] < sizes["none"]
