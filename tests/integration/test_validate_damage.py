"""What validation says of damage: where it is, down to the column, and what is left."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.postgres import EmbeddedPostgres
from rivet_dagster.errors import IntegrityError
from rivet_dagster.export.config import parse_config
from rivet_dagster.export.documents import ExportManifest, WindowManifest, fingerprint_bytes
from rivet_dagster.export.names import part_path
from rivet_dagster.export.operations import TableExport
from rivet_dagster.export.seal import success_bytes
from rivet_dagster.export.validate import Finding, Report, validate_export
from rivet_dagster.stores import open_store
from tests.conftest import empty_database
from tests.support.cli import rivet
from tests.support.exports import export_all, prepared, run_all

Sql = Callable[[str], list[tuple[Any, ...]]]

# A column of every family, one whose name has a dot, and lists and intervals, which are several columns in the file.
THINGS = """
CREATE TABLE public.things (
    id int PRIMARY KEY, "a.b" text, a bigint, amount numeric(12,2), wide numeric(60,4), at timestamptz, day date,
    key uuid, raw bytea, flag boolean, ratio double precision, gap interval, tags text[], doc jsonb
);
INSERT INTO public.things
SELECT n, nullif(md5(n::text), md5('7')), hashint8(n), n / 7.0, n * 12345678901234567890123456789.5,
       TIMESTAMPTZ '2024-01-01' + n * INTERVAL '1 minute', DATE '2024-01-01' + n, md5(n::text)::uuid,
       decode(md5(n::text), 'hex'), n % 3 = 0, sqrt(n), n * INTERVAL '1 hour 3 days',
       CASE WHEN n % 5 > 0 THEN ARRAY[n::text, NULL, 'x'] END, jsonb_build_object('n', n)
  FROM generate_series(1, 3000) AS n;
"""


@dataclass(frozen=True)
class Damaged:
    """An export, and a copy of it whose files tests may harm."""

    sound: Path
    copy: Path

    def seal(self) -> dict[str, Any]:
        found = json.loads((self.sound / "manifest.json").read_text())
        assert isinstance(found, dict)
        return found

    def part(self, window: int = 1) -> str:
        (part,) = self.seal()["windows"][window]["parts"]
        return str(part["path"])

    def validated(self, changed: dict[str, bytes | None], **options: Any) -> Report:
        """The report where these files have these bytes, or are gone."""
        for path, data in changed.items():
            file = self.copy / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                file.unlink()
            else:
                file.write_bytes(data)
        try:
            return validate_export(open_store(str(self.copy)), **options)
        finally:
            for path in changed:
                if (self.sound / path).exists():
                    shutil.copyfile(self.sound / path, self.copy / path)
                else:
                    (self.copy / path).unlink()


@pytest.fixture(scope="module")
def exported(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """Windows of a thousand rows."""
    lake = tmp_path_factory.mktemp("damage")
    with empty_database(postgres) as name:
        dsn = postgres.dsn(name)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(THINGS)
        config = {"table": "public.things", "windows": {"rows": 1000}, "columns": {"gap": {"type": "interval"}}}
        parquet, csv = {"row_group_bytes": 64 << 10}, {"type": "csv", "compression": "none"}
        for folder, chosen in (("parquet", parquet), ("csv", csv)):
            export_all(TableExport(parse_config({**config, "format": chosen}), dsn, str(lake / folder)))
    for kind in ("parquet", "csv"):
        shutil.copytree(lake / kind / "public.things", lake / f"{kind}-copy")
    return Damaged(lake / "parquet/public.things", lake / "parquet-copy")


@pytest.fixture(scope="module")
def as_csv(exported: Damaged) -> Damaged:
    lake = exported.copy.parent
    return Damaged(lake / "csv/public.things", lake / "csv-copy")


def the_finding(report: Report) -> Finding:
    (finding,) = report.findings
    return finding


def column_ranges(file: pq.ParquetFile) -> list[tuple[int, int, str]]:
    """Which bytes of the file are of which column of the table, by its footer."""
    found = []
    for group in range(file.metadata.num_row_groups):
        for number in range(file.metadata.num_columns):
            chunk = file.metadata.row_group(group).column(number)
            starts = [chunk.data_page_offset]
            if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                starts.append(chunk.dictionary_page_offset)
            name = chunk.path_in_schema
            inner = {"gap": ("gap.",), "tags": ("tags.",)}
            name = next((outer for outer, heads in inner.items() if name.startswith(heads)), name)
            found.append((min(starts), min(starts) + chunk.total_compressed_size, name))
    return found


def rows_of(data: bytes) -> pa.Table | None:
    """The rows that pyarrow reads from a file; None where it cannot."""
    try:
        return pq.read_table(io.BytesIO(data))
    except Exception:  # noqa: BLE001 (whatever a damaged file makes of a reader)
        return None


@settings(max_examples=120, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), data=st.data())
def test_a_flipped_bit_is_found_where_it_is(exported: Damaged, place: float, bit: int, data: st.DataObject) -> None:
    path = exported.part()
    sound = (exported.sound / path).read_bytes()
    # A fifth of the flips are in the last two kilobytes: the footer is small beside the rows.
    first = data.draw(st.sampled_from([0, 0, 0, 0, len(sound) - 2048]))
    at = first + int(place * (len(sound) - first))
    flipped = bytearray(sound)
    flipped[at] ^= 1 << bit
    finding = the_finding(exported.validated({path: bytes(flipped)}))
    assert (finding.code, finding.window, finding.path) == ("RIVET_PART_DAMAGED", "g1-w000001", path)
    with pq.ParquetFile(exported.sound / path) as file:
        hit = {name for first, end, name in column_ranges(file) if first <= at < end}
    assert len(hit) <= 1
    found = rows_of(bytes(flipped))
    if hit and (found is None or not found.equals(pq.read_table(exported.sound / path))):
        assert set(finding.columns) == hit
    elif hit:
        assert "its rows are those that were committed" in finding.what
    else:
        assert finding.what.startswith("its bytes are not those that were committed: ")


@pytest.mark.parametrize("name", ["id", "a.b", "a", "amount", "wide", "at", "day", "key", "raw", "gap", "tags", "doc"])
def test_other_values_in_a_sound_file_are_named_by_column(exported: Damaged, name: str) -> None:
    path = exported.part()
    table = pq.read_table(exported.sound / path)
    column = table.column(name)
    moved = pa.concat_tables([table.select([name]).slice(0, 1)] * 2 + [table.select([name]).slice(2)]).column(0)
    assert not moved.equals(column)
    file = io.BytesIO()
    pq.write_table(table.set_column(table.schema.get_field_index(name), table.schema.field(name), moved), file)
    finding = the_finding(exported.validated({path: file.getvalue()}))
    assert finding.columns == (name,)
    assert f"column {name} has other values" in finding.what


def test_columns_that_changed_places_are_named(exported: Damaged) -> None:
    path = exported.part()
    table = pq.read_table(exported.sound / path)
    number, other = table.schema.get_field_index("a.b"), table.schema.get_field_index("doc")
    exchanged = table.set_column(number, table.schema.field(number), table.column(other).cast(pa.string()))
    file = io.BytesIO()
    pq.write_table(exchanged, file)
    assert the_finding(exported.validated({path: file.getvalue()})).columns == ("a.b",)


def test_equal_rows_in_other_bytes_are_said_to_be_equal(exported: Damaged) -> None:
    path = exported.part()
    table = pq.read_table(exported.sound / path)
    file = io.BytesIO()
    pq.write_table(pa.concat_tables([table.slice(500), table.slice(0, 500)]), file, compression="gzip")
    finding = the_finding(exported.validated({path: file.getvalue()}))
    assert (finding.columns, finding.what.endswith("its rows are those that were committed")) == ((), True)


@pytest.mark.parametrize("left", [0, 3, 200, -1])
def test_a_cut_part_is_found(exported: Damaged, left: int) -> None:
    path = exported.part()
    sound = (exported.sound / path).read_bytes()
    finding = the_finding(exported.validated({path: sound[:left]}))
    assert (finding.code, finding.window) == ("RIVET_PART_SIZE", "g1-w000001")
    assert f"not {len(sound)}: it cannot be read at all" in finding.what


def test_all_that_is_wrong_is_found_at_once(exported: Damaged) -> None:
    gone, harmed = exported.part(0), exported.part(2)
    data = (exported.sound / harmed).read_bytes()
    found = exported.validated({gone: None, harmed: data[:-8] + bytes(8), "g1/windows/w000001.json": None}).findings
    assert {(finding.code, finding.window) for finding in found} == {
        ("RIVET_PART_MISSING", "g1-w000000"),
        ("RIVET_WINDOW_MISSING", "g1-w000001"),
        ("RIVET_PART_DAMAGED", "g1-w000002"),
    }


def test_csv_says_what_can_be_said(as_csv: Damaged) -> None:
    path = as_csv.part()
    sound = (as_csv.sound / path).read_bytes()
    value = the_finding(as_csv.validated({path: sound.replace(b"true", b"trve", 1)}))
    assert (value.code, value.columns) == ("RIVET_PART_DAMAGED", ())
    assert "the number of its rows is right" in value.what
    line = the_finding(as_csv.validated({path: sound.replace(b"true", b"tru\n", 1)}))
    assert "it has 1001 rows, not 1000" in line.what


def test_parts_without_checksums_of_columns_are_still_validated(exported: Damaged) -> None:
    """As they were written before there were such: the seal keeps its id, and a damaged column that cannot be read
    is named all the same."""
    seal = ExportManifest.from_bytes((exported.sound / "manifest.json").read_bytes(), "")
    windows = tuple(
        window.model_copy(update={"parts": tuple(part.model_copy(update={"columns": ()}) for part in window.parts)})
        for window in seal.windows
    )
    older = seal.model_copy(update={"windows": windows}).identified().to_bytes()
    assert b"columns" not in json.dumps([window["parts"] for window in json.loads(older)["windows"]]).encode()
    documents: dict[str, bytes | None] = {"manifest.json": older, "_SUCCESS": success_bytes(older)}
    for window in windows:
        path = f"g1/windows/{window.key.removeprefix('g1-')}.json"
        manifest = WindowManifest.from_bytes((exported.sound / path).read_bytes(), "")
        documents[path] = manifest.model_copy(update={"parts": window.parts}).to_bytes()
    assert exported.validated(documents).ok
    path = exported.part()
    sound = (exported.sound / path).read_bytes()
    with pq.ParquetFile(exported.sound / path) as file:
        start, _, name = next(each for each in column_ranges(file) if each[2] == "doc")
    unread = the_finding(exported.validated({**documents, path: sound[:start] + b"\xff" * 8 + sound[start + 8 :]}))
    assert (unread.code, unread.columns) == ("RIVET_PART_DAMAGED", (name,))
    file_ = io.BytesIO()
    pq.write_table(pq.read_table(exported.sound / path), file_)
    whole = the_finding(exported.validated({**documents, path: file_.getvalue()}))
    assert "no checksums of columns were kept" in whole.what


# --------------------------------------------------------------------------------------------------- documents


def edited(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest).encode()


def _other_path(manifest: dict[str, Any]) -> None:
    manifest["parts"][0]["path"] = manifest["parts"][0]["path"].replace("part-00000", "part-00001")


def _other_rows(manifest: dict[str, Any]) -> None:
    manifest["rows"] += 1


def _other_rows_of_the_part(manifest: dict[str, Any]) -> None:
    manifest["rows"] += 1
    manifest["parts"][0]["rows"] += 1


def _other_fingerprint(manifest: dict[str, Any]) -> None:
    digits = manifest["row_fingerprint"]
    manifest["row_fingerprint"] = digits[:-1] + ("0" if digits[-1] != "0" else "1")


def _other_checksum(manifest: dict[str, Any]) -> None:
    manifest["parts"][0]["columns"][3] = "0" * 16


def _other_content(manifest: dict[str, Any]) -> None:
    manifest["parts"][0]["content_fingerprint"] = fingerprint_bytes(b"something else")


def _other_bound(manifest: dict[str, Any]) -> None:
    manifest["hi"] = ["2001"]


def _other_lower_bound(manifest: dict[str, Any]) -> None:
    manifest["lo"] = None


def _other_window(manifest: dict[str, Any]) -> None:
    manifest["key"] = "g1-w000002"


def _other_columns(manifest: dict[str, Any]) -> None:
    manifest["schema_fingerprint"] = fingerprint_bytes(b"other columns")


EDITS = [
    _other_path,
    _other_rows,
    _other_rows_of_the_part,
    _other_fingerprint,
    _other_checksum,
    _other_content,
    _other_bound,
    _other_lower_bound,
    _other_window,
    _other_columns,
]


@pytest.mark.parametrize("depth", ["light", "full"])
@pytest.mark.parametrize("edit", EDITS)
def test_a_window_manifest_edited_by_hand_is_found(
    exported: Damaged, edit: Callable[[dict[str, Any]], None], depth: str
) -> None:
    path = "g1/windows/w000001.json"
    manifest = json.loads((exported.sound / path).read_text())
    edit(manifest)
    found = exported.validated({path: edited(manifest)}, depth=depth).findings
    assert ("RIVET_WINDOW_MISMATCH", "g1-w000001", path) in [(each.code, each.window, each.path) for each in found]
    assert {finding.window for finding in found} == {"g1-w000001"}


@pytest.mark.parametrize("edit", [_other_rows_of_the_part, _other_fingerprint, _other_checksum, _other_path])
def test_a_seal_edited_by_hand_is_found(exported: Damaged, edit: Callable[[dict[str, Any]], None]) -> None:
    seal = exported.seal()
    edit(seal["windows"][1])
    data = edited(seal)
    with pytest.raises(IntegrityError) as caught:
        exported.validated({"manifest.json": data})
    assert (caught.value.code, caught.value.process_exit_code) == ("RIVET_SEAL_BROKEN", 3)
    found = exported.validated({"manifest.json": data, "_SUCCESS": success_bytes(data)}).findings
    assert "RIVET_SEAL_BROKEN" in [finding.code for finding in found]
    assert "g1-w000001" in [finding.window for finding in found]


@pytest.mark.parametrize("success", [b"xxh3-128:0\n", None])
def test_a_seal_whose_writer_died_is_a_finding_beside_the_others(exported: Damaged, success: bytes | None) -> None:
    found = exported.validated({"_SUCCESS": success, exported.part(): None}, depth="light").findings
    assert [(finding.code, finding.path) for finding in found] == [
        ("RIVET_SEAL_BROKEN", "_SUCCESS"),
        ("RIVET_PART_MISSING", exported.part()),
    ]


def test_a_seal_that_is_being_written_is_waited_for(exported: Damaged) -> None:
    """As between a seal's two puts, which its writer makes one after the other."""
    success = exported.copy / "_SUCCESS"
    late = threading.Timer(0.3, success.write_bytes, [(exported.sound / "_SUCCESS").read_bytes()])
    try:
        success.write_bytes(b"that of the seal before")
        late.start()
        assert validate_export(open_store(str(exported.copy)), depth="light").ok
    finally:
        late.join()


def test_a_seal_that_is_edited_with_its_id_does_not_fit_the_parts(exported: Damaged) -> None:
    seal = exported.seal()
    _other_checksum(seal["windows"][1])
    data = ExportManifest.from_bytes(edited(seal), "").identified().to_bytes()
    found = exported.validated({"manifest.json": data, "_SUCCESS": success_bytes(data)}).findings
    assert [(finding.code, finding.columns) for finding in found] == [
        ("RIVET_WINDOW_MISMATCH", ()),
        ("RIVET_PART_ROWS", ("amount",)),
    ]


def test_a_manifest_that_cannot_be_read_is_found(exported: Damaged) -> None:
    finding = the_finding(exported.validated({"g1/windows/w000001.json": b"{"}))
    assert (finding.code, finding.window) == ("RIVET_DOCUMENT_INVALID", "g1-w000001")


# --------------------------------------------------------------------------------------------------- foreign files


@pytest.mark.parametrize("depth", ["light", "sample", "full"])
@pytest.mark.parametrize(
    "name",
    [
        "w000001/part-00000.parquet",
        "notes.txt",
        "w000001/copy of part.parquet",
        "part-00000-0123456789abcdef.parquet",
        "w000001/old/part-00000-0123456789abcdef.parquet",
    ],
)
def test_a_foreign_file_is_found(exported: Damaged, name: str, depth: str) -> None:
    finding = the_finding(exported.validated({f"g1/data/{name}": b"PAR1"}, depth=depth))
    assert (finding.code, finding.window, finding.path) == ("RIVET_PART_FOREIGN", "", f"g1/data/{name}")


def test_a_part_that_no_manifest_names_is_left_over(exported: Damaged) -> None:
    """As a process leaves it that is killed before the commit."""
    data = b"the bytes of some part"
    path = part_path(1, "g1-w000001", 0, fingerprint_bytes(data), "parquet")
    report = exported.validated({path: data})
    assert (report.ok, report.leftovers) == (True, 1)
    finding = the_finding(exported.validated({path: b"other bytes"}))
    assert (finding.code, finding.path) == ("RIVET_PART_FOREIGN", path)


def test_parts_of_older_seals_and_of_newer_windows_are_known(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY, v int)")
    sql("INSERT INTO public.n SELECT n, 0 FROM generate_series(1, 3000) AS n")
    export = prepared(dsn, lake, "public.n", rows=1000)
    export_all(export)
    sql("UPDATE public.n SET v = 1 WHERE id <= 1000")
    export_all(export, work_id="second")
    sql("UPDATE public.n SET v = 2 WHERE id <= 1000")
    plan = export.planned()
    with export.run(plan, plan.windows[:1], "third", 1) as run:
        (outcome,) = run
    assert outcome.manifest is not None
    assert len(list((lake / "public.n/g1/data/w000000").iterdir())) == 3
    report = validate_export(export.store)
    assert (report.ok, report.leftovers) == (True, 0)
    # What is committed and not sealed yet is validated as well.
    (part,) = outcome.manifest.parts
    file = lake / "public.n" / part.path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    assert [(each.code, each.path) for each in validate_export(export.store).findings] == [
        ("RIVET_PART_DAMAGED", part.path)
    ]


def test_bounds_of_slices_of_time_must_meet(dsn: str, sql: Sql, lake: Path) -> None:
    from rivet_dagster.export.config import TimeWindows
    from rivet_dagster.partitions import slices_of

    sql("CREATE TABLE public.events (id int PRIMARY KEY, at timestamp NOT NULL)")
    sql("CREATE INDEX ON public.events (at, id)")
    sql(
        "INSERT INTO public.events SELECT n, TIMESTAMP '2024-01-01' + n * INTERVAL '1 hour'"
        "  FROM generate_series(0, 71) AS n"
    )
    export = prepared(dsn, lake, "public.events")
    windows = {"type": "time", "column": "at", "start": "2024-01-01", "end": "2024-01-04"}
    options = TimeWindows.model_validate(windows)
    export.config = export.config.model_copy(update={"windows": options})
    plan, _ = export.plan()
    slices = slices_of(plan, options)
    with export.run(plan, slices, "work", 1) as run:
        assert [outcome.error for outcome in run] == [None] * 3
    export.seal(plan, slices)
    assert validate_export(export.store).ok
    file = lake / "public.events/g1/windows/t2024-01-02.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "lo": ["2024-01-01 12:00:00"]}))
    finding = the_finding(validate_export(export.store))
    assert (finding.code, finding.window) == ("RIVET_WINDOW_MISMATCH", "2024-01-02")


# --------------------------------------------------------------------------------------------------- depth


def test_a_sample_reads_some_parts_and_all_sizes(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.n (id int PRIMARY KEY)")
    sql("INSERT INTO public.n SELECT generate_series(1, 2500)")
    export = prepared(dsn, lake, "public.n", rows=100)
    assert all(outcome.error is None for outcome in run_all(export, export.plan()[0]))
    seal = export.seal(export.planned())
    read: dict[str, list[int]] = {"light": [], "sample": [], "full": []}
    reports = {
        depth: validate_export(export.store, read[depth].append, depth=depth)  # type: ignore[arg-type]
        for depth in read
    }
    assert all(report.ok for report in reports.values())
    assert {depth: len(sizes) for depth, sizes in read.items()} == {
        depth: report.parts_read for depth, report in reports.items()
    }
    assert (reports["light"].parts_read, reports["full"].parts_read) == (0, 25)
    assert reports["sample"].parts_read in (2, 3)
    found = set()
    for window in seal.windows:
        file = lake / "public.n" / window.parts[0].path
        data = file.read_bytes()
        file.write_bytes(data[:-1] + b"?")
        if not validate_export(export.store, depth="sample").ok:
            found.add(window.key)
        assert validate_export(export.store, depth="light").ok
        file.write_bytes(data)
    assert len(found) == reports["sample"].parts_read


def test_the_command_line_names_columns_and_depth(exported: Damaged, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported.sound, folder)
    file = folder / exported.part()
    with pq.ParquetFile(file) as parquet:
        start, end, _ = next(each for each in column_ranges(parquet) if each[2] == "amount")
    data = bytearray(file.read_bytes())
    data[(start + end) // 2] ^= 255
    file.write_bytes(data)
    done = rivet("validate", str(folder), "--json")
    assert done.code == 3
    assert [(each["code"], each["columns"]) for each in done.json["findings"]] == [("RIVET_PART_DAMAGED", ["amount"])]
    said = rivet("validate", str(folder))
    assert (said.code, "column amount" in said.out, "g1-w000001" in said.out) == (3, True, True)
    light = rivet("validate", str(folder), "--depth", "light", "--json")
    assert (light.code, light.json["depth"], light.json["parts_read"]) == (0, "light", 0)
    assert "of which 0 parts were read" in rivet("validate", str(folder), "--depth", "light").out
