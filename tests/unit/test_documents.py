"""Stored documents: those of every day stay readable, and their published schemas say what readers take."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from docs import schemas
from rivet_dagster import open_export
from rivet_dagster.errors import IntegrityError
from rivet_dagster.export.commit import load_window
from rivet_dagster.export.documents import Document, ExportManifest, WorkMarker
from rivet_dagster.export.names import generation_of, window_path
from rivet_dagster.export.plan import latest_generation, load_plan
from rivet_dagster.export.seal import seal_in_force, success_bytes
from rivet_dagster.stores import open_store

SAMPLES = Path(__file__).parent / "samples"
FOLDERS = sorted(path.parent for path in SAMPLES.rglob("manifest.json"))
STORED = sorted(SAMPLES.rglob("*.json"))
MODELS = {document.FORMAT: document for document in schemas.DOCUMENTS}
# One of each document, with every list that it has filled.
RICH = [
    SAMPLES / "checksums/keyset" / name
    for name in ("g1/plan/000002.json", "g1/windows/w000000.json", "manifest.json", "work.json")
]


def name_of(path: Path) -> str:
    return str(path.relative_to(SAMPLES))


def validator(values: Any) -> Draft202012Validator:
    """Of the published schema of a document."""
    path = schemas.FOLDER / schemas.file_name(values["format"])
    return Draft202012Validator(json.loads(path.read_text()))


def read(values: Any, document: type[Document]) -> Document:
    return document.from_bytes(json.dumps(values).encode(), "here")


def places(values: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the objects inside of a document are, with the document itself; of a list's only the first one."""
    if isinstance(values, dict):
        yield path
        for name, value in values.items():
            yield from places(value, (*path, name))
    elif isinstance(values, list) and values:
        yield from places(values[0], (*path, 0))


def at(values: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        values = values[step]
    return values


def as_far_as(values: Any, again: Any) -> Any:
    """`again` without the fields of objects that `values` does not have: those of later versions."""
    if isinstance(values, dict):
        return {name: as_far_as(value, again[name]) for name, value in values.items()}
    if isinstance(values, list) and len(values) == len(again):
        return [as_far_as(*each) for each in zip(values, again, strict=True)]
    return again


def test_the_schemas_are_what_their_generator_writes() -> None:
    written = {path.name: path.read_text() for path in schemas.FOLDER.iterdir()}
    assert written == schemas.files(), "run: python -m docs.schemas"
    for text in written.values():
        Draft202012Validator.check_schema(json.loads(text))


def test_every_document_has_a_schema_that_describes_every_field() -> None:
    documents = {each for each in Document.__subclasses__() if each.__module__ == Document.__module__}
    assert documents == set(schemas.DOCUMENTS)
    for document in schemas.DOCUMENTS:
        fields = schemas.schema(document)["properties"]
        if document is WorkMarker:  # its name says all of it
            continue
        assert [name for name, field in fields.items() if not {"description", "const"} & set(field)] == []


@pytest.mark.parametrize("path", STORED, ids=name_of)
def test_every_sample_is_read_and_follows_its_schema(path: Path) -> None:
    values = json.loads(path.read_text())
    validator(values).validate(values)
    document = MODELS[values["format"]]
    found = read(values, document)
    again = json.loads(found.to_bytes())
    assert as_far_as(values, again) == values
    if isinstance(found, ExportManifest):
        assert found.identified() == found


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_every_sample_of_an_export_is_opened(folder: Path, tmp_path: Path) -> None:
    store = open_store(str(folder))
    seal = seal_in_force(store)
    export = open_export(folder)
    assert export.manifest == seal
    assert export.generation == latest_generation(store)
    assert export.schema.names == [column.name for column in export.manifest.columns]
    assert len(export.parts) == sum(len(window.parts) for window in export.windows)
    for generation in range(1, export.generation + 1):
        plan = load_plan(store, generation)
        assert plan is not None
        windows = {window.key: window for window in plan.windows}
        sealed = {window.key: window for window in export.windows} if generation == export.generation else {}
        assert plan.mode == "time" or set(sealed) <= set(windows)
        for key in windows or sealed:
            assert generation_of(key) in (None, generation)
            manifest = load_window(store, generation, key)
            assert manifest is not None, window_path(generation, key)
            assert key not in windows or windows[key].has_bounds_of(manifest)
            assert key not in sealed or sealed[key].parts == manifest.parts
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "_SUCCESS").unlink()
    assert open_export(copy).seal_id == export.seal_id, "its own id vouches for it"
    for path in folder.glob("g*/seals/*.json"):
        (copy / "manifest.json").write_bytes(path.read_bytes())
        (copy / "_SUCCESS").write_bytes(success_bytes(path.read_bytes()))
        assert open_export(copy).seal_id == path.stem


def test_the_samples_have_every_kind_of_plan_and_window() -> None:
    texts = [path.read_text() for path in STORED]
    documents = [json.loads(text) for text in texts]
    assert {values["format"] for values in documents} == set(MODELS)
    modes = {values["mode"] for values in documents if values["format"] == "rivet.plan/1"}
    assert modes == {"keyset", "int_range", "time", "cursor", "full"}
    assert {values["engine"] for values in documents if "engine" in values} == {"postgresql", "mysql"}
    windows = [values for values in documents if values["format"] == "rivet.window/1"]
    for field in ("nulls", "half_open"):
        assert {values[field] for values in windows} == {False, True}
    assert {len(values["hi"]) for values in windows} == {0, 1, 2}
    assert any(values["replaced"] for values in windows)
    suffixes = {part["path"].rpartition("/")[2].partition(".")[2] for values in windows for part in values["parts"]}
    assert suffixes == {"parquet", "csv.gz"}


@pytest.mark.parametrize("path", RICH, ids=name_of)
def test_unknown_fields_are_ignored_anywhere(path: Path) -> None:
    values = json.loads(path.read_text())
    document = MODELS[values["format"]]
    before = read(values, document)
    for place in list(places(values)):
        at(values, place)["colour"] = {"blue": [1]}
    assert read(values, document) == before
    validator(values).validate(values)


@pytest.mark.parametrize("path", RICH, ids=name_of)
def test_readers_and_schemas_refuse_the_same(path: Path) -> None:
    text = path.read_text()
    document = MODELS[json.loads(text)["format"]]
    refused = set()
    for place in places(json.loads(text)):
        for name in at(json.loads(text), place):
            for change in ("missing", "an object"):
                values = json.loads(text)
                if change == "missing":
                    del at(values, place)[name]
                else:
                    at(values, place)[name] = {}
                valid = validator(json.loads(text)).is_valid(values)
                try:
                    read(values, document)
                    code = ""
                except IntegrityError as exc:
                    code = exc.code
                    refused.add(change)
                assert code == ("" if valid else "RIVET_DOCUMENT_INVALID"), (place, name, change)
    assert refused == {"missing", "an object"}


@pytest.mark.parametrize("path", RICH, ids=name_of)
def test_another_version_is_refused(path: Path) -> None:
    values = json.loads(path.read_text())
    document = MODELS[values["format"]]
    schema = validator(values)
    values["format"] = values["format"].replace("/1", "/2")
    assert not schema.is_valid(values)
    with pytest.raises(IntegrityError, match=f"not in the format {document.FORMAT}"):
        read(values, document)
