"""Writes the JSON Schemas of the stored documents out of the models that read them: `python -m docs.schemas`."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rivet_dagster.export import journal_entries as journal
from rivet_dagster.export.documents import Document, ExportManifest, PlanSegment, WindowManifest, WorkMarker

FOLDER = Path(__file__).parent / "reference" / "schemas"
DOCUMENTS: tuple[type[Document], ...] = (PlanSegment, WindowManifest, ExportManifest, WorkMarker)
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_ATTRIBUTE = re.compile(r"^    (\w+(?:, \w+)*): ((?:.|\n(?!    \w+(?:, \w+)*: ))*)", re.MULTILINE)


def file_name(name: str) -> str:
    """Where a format's schema is: `window-1.json` has that of `rivet.window/1`."""
    return name.removeprefix("rivet.").replace("/", "-") + ".json"


def schema(document: type[Document]) -> dict[str, Any]:
    """The schema of a document. Fields with a default may be missing, and unknown ones are allowed."""
    found = document.model_json_schema()
    models = _models(document)
    for name, definition in found.get("$defs", {}).items():
        _describe(definition, models[name])
    _describe(found, document)
    found["properties"] = {"format": {"const": document.FORMAT}, **found["properties"]}
    found["required"] = ["format", *found["required"]]
    return {"$schema": _DRAFT, **found, "title": document.FORMAT}


def journal_schema() -> dict[str, Any]:
    """The schema of one line of a journal. Events that are not known are allowed, as unknown fields are."""
    common = {"properties": {"at": {"type": "string"}, "t": {"type": "number"}}}
    _describe(common, journal.JournalEntry)
    definitions = {entry.__name__: _entry(entry) for entry in journal.ENTRIES}
    return {
        "$schema": _DRAFT,
        "$defs": definitions,
        "description": "One line of a run's journal: something that happened.",
        "properties": {
            "format": {"const": journal.FORMAT},
            **common["properties"],
            "event": {"type": "string", "description": "What happened; readers skip what they do not know."},
        },
        "required": ["format", "at", "t", "event"],
        "title": journal.FORMAT,
        "type": "object",
        "allOf": [
            {
                "if": {"properties": {"event": {"const": entry.EVENT}}, "required": ["event"]},
                "then": {"$ref": f"#/$defs/{entry.__name__}"},
            }
            for entry in journal.ENTRIES
        ],
    }


def _entry(entry: type[journal.JournalEntry]) -> dict[str, Any]:
    """What is an entry's own, without what every line has."""
    found = entry.model_json_schema()
    for name in journal.JournalEntry.model_fields:
        del found["properties"][name]
    _describe(found, entry)
    return found


def _models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Every model of the documents' module, by name."""
    members = vars(inspect.getmodule(model)).values()
    return {each.__name__: each for each in members if inspect.isclass(each) and issubclass(each, BaseModel)}


def _describe(definition: dict[str, Any], model: type[BaseModel]) -> None:
    """Say of a model and its fields what its docstring says of them."""
    text, _, attributes = inspect.getdoc(model).partition("\n\nAttributes:\n")  # type: ignore[union-attr]
    said = {name: _line(what) for names, what in _ATTRIBUTE.findall(attributes) for name in names.split(", ")}
    definition["description"] = _line(text)
    for name, field in definition["properties"].items():
        field.pop("title", None)
        if name in said:
            field["description"] = said[name]


def _line(text: str) -> str:
    return " ".join(text.split())


def files() -> dict[str, str]:
    """What the files of all schemas hold, by name."""
    schemas = {document.FORMAT: schema(document) for document in DOCUMENTS} | {journal.FORMAT: journal_schema()}
    return {file_name(name): json.dumps(found, indent=1, ensure_ascii=False) + "\n" for name, found in schemas.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each, content in files().items():
        (FOLDER / each).write_text(content)
