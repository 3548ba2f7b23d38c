"""JSON schemas of declarations in YAML, of which a validator names the innermost field at fault."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import dagster as dg
from pydantic import BaseModel

from rivet_dagster.export.config import ExportConfig

TEMPLATE = re.compile(r"\{[{%]")
"""How a template begins that Dagster fills in."""

_Schema = dict[str, Any]


@dataclass(frozen=True)
class ExportsSchema:
    """Gives exports their JSON schema, which editors and `dg check yaml` read; they are checked when they load.

    Attributes:
        without: a field that these exports have not got.
    """

    without: str = ""

    def __get_pydantic_json_schema__(self, *_: Any) -> _Schema:
        schema = _inlined(ExportConfig.model_json_schema())
        exact = {name: _exact(each) for name, each in schema["properties"].items() if name != self.without}
        if not self.without:
            exact["translation"] = _or_template(_inlined(dg.AssetAttributesModel.model_json_schema()), "null")
        required = [name for name in schema.get("required", []) if name != self.without]
        return {**schema, "properties": exact, "required": required}


@dataclass(frozen=True)
class ModelSchema:
    """Gives other declarations their JSON schema, as `ExportsSchema` does exports."""

    model: type[BaseModel]

    def __get_pydantic_json_schema__(self, *_: Any) -> _Schema:
        schema = _inlined(self.model.model_json_schema())
        return {**schema, "properties": {name: _exact(each) for name, each in schema["properties"].items()}}


def _inlined(schema: _Schema) -> _Schema:
    """The schema without references: there is nothing in these models that holds itself."""
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            rest = {key: inline(each) for key, each in node.items() if key != "$ref"}
            return {**inline(definitions[name]), **rest} if name else rest
        return [inline(each) for each in node] if isinstance(node, list) else node

    return cast(_Schema, inline(schema))


def _or_template(schema: _Schema, *others: str) -> _Schema:
    """The schema, or a template, or one of some simple types.

    With `if`, and not `anyOf`, of which a validator can only say that nothing fits, and not where.
    """
    template = {"type": "string", "pattern": TEMPLATE.pattern}
    return {"if": {"anyOf": [template, *({"type": other} for other in others)]}, "then": True, "else": schema}


def _exact(schema: _Schema) -> _Schema:
    """A field of an export, so that a validator names the innermost field at fault."""
    if "oneOf" in schema:  # models that are told apart by their type; the first one is meant where none is given
        usual, *others = schema["oneOf"]
        types = {"enum": [each["properties"]["type"]["const"] for each in schema["oneOf"]]}
        found = _exact({**usual, "properties": {**usual["properties"], "type": types}})
        for other in others:
            kind = {"properties": {"type": {"const": other["properties"]["type"]["const"]}}, "required": ["type"]}
            found = {"if": kind, "then": _exact(other), "else": found}
        return _or_template(found)
    rest = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if len(rest) == 1:
        return _or_template(_exact(rest[0]), "null")
    inner = dict(schema)
    if "properties" in schema:
        inner["properties"] = {name: _exact(each) for name, each in schema["properties"].items()}
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            inner[name] = _exact(schema[name])
    return _or_template(inner)


@cache
def with_exact_schema(model: type[BaseModel]) -> type[BaseModel]:
    """The model with a JSON schema whose errors name the innermost field at fault."""

    class Exact(model, title=model.__name__):  # type: ignore[misc, valid-type, call-arg]
        @classmethod
        def model_json_schema(cls, *args: Any, **options: Any) -> _Schema:
            schema = cast(_Schema, super().model_json_schema(*args, **options))
            for name in ("workers", "exports", "export", "translation", "op", "automation", "checks", "governor"):
                field = schema["properties"].get(name, {})
                kinds = field.get("anyOf", [])
                rest = [each for each in kinds if each.get("type") not in {"string", "null"}]
                if len(rest) == 1:
                    del field["anyOf"]
                    field.update(_or_template(rest[0], *("null" for each in kinds if each.get("type") == "null")))
            return schema

    return Exact
