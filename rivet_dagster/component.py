"""Exports declared in YAML: a component for Dagster's `defs.yaml`."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar, cast

import dagster as dg
from dagster.components.resolved.core_models import OpSpec
from dagster.components.resolved.errors import ResolutionException
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import BaseModel, Field, ValidationError

from rivet_dagster.assets import build_rivet_assets
from rivet_dagster.automation import Automation, build_rivet_automation
from rivet_dagster.checks import Checks, build_rivet_checks
from rivet_dagster.component_schema import TEMPLATE, ExportsSchema, ModelSchema, with_exact_schema
from rivet_dagster.errors import ConfigError
from rivet_dagster.export.config import ExportConfig
from rivet_dagster.export.governing import GovernorConfig
from rivet_dagster.export.names import plain_name
from rivet_dagster.resources import RivetResource
from rivet_dagster.scaffolding import RivetExportScaffolder
from rivet_dagster.translator import DagsterRivetTranslator, RivetTranslatorData

# A field that is one environment variable and nothing else: its value stays out of the definitions.
_VARIABLE = re.compile(r"""\s*\{\{\s*env(?:\.(\w+)|\(\s*(['"])(\w+)\2\s*\))\s*\}\}\s*""")

_Fault = tuple[Sequence[int | str], str]
_Model = TypeVar("_Model", bound=BaseModel)


class DeclarationError(ConfigError, ResolutionException):
    """A `ConfigError` with file, line and field. Being of Dagster's own kind too, it is shown as it is."""


class TranslatedExport(ExportConfig):
    """An export with a translation of its own.

    Attributes:
        translation: what changes the spec of each of its assets, after the component's own translation.
    """

    # Excluded: the code version is made of the model's JSON.
    translation: Callable[[dg.AssetSpec, RivetTranslatorData], dg.AssetSpec] | None = Field(default=None, exclude=True)


def _refused(
    context: dg.ResolutionContext, faults: Iterable[_Fault], advice: str = "Correct this.", code: str = ""
) -> DeclarationError:
    """An error that names the place of every fault. A fault is a field below the context's, and what is wrong."""
    shown = "; ".join(
        f"{_place(context, [*context.path, *loc])}: {why.removeprefix('Value error, ').rstrip('.')}"
        for loc, why in faults
    )
    return DeclarationError(code or "RIVET_CONFIG_INVALID", f"{shown}.", advice)


def _place(context: dg.ResolutionContext, path: Sequence[int | str]) -> str:
    """`file:line - field`, of a field as pydantic names it: possibly with names of models in between."""
    node = context.source_position_tree
    if node is None:
        return ".".join(map(str, path))
    names = []
    for number, part in enumerate(path, start=1):
        child = node.children.get(part)
        if child is not None or number == len(path):
            names.append(str(part))
        node = child or node
    return f"{node.position} - {'.'.join(names)}"


def _faults(exc: ValidationError) -> list[_Fault]:
    return [(fault["loc"], fault["msg"]) for fault in exc.errors(include_url=False, include_input=False)]


def _rendered(context: dg.ResolutionContext, value: Any) -> Any:
    """The value with its templates filled in.

    Other texts stay as they are: Dagster would read `1` and `"a"` as Python, which may be names of columns here.
    """
    if isinstance(value, dict):
        return {key: _rendered(context.at_path(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rendered(context.at_path(index), each) for index, each in enumerate(value)]
    if isinstance(value, str) and TEMPLATE.search(value):
        return context.resolve_value(value)
    return value


def _setting(context: dg.ResolutionContext, value: str) -> str:
    """Text, or the environment variable that holds it."""
    variable = _VARIABLE.fullmatch(value)
    if variable:
        name = variable[1] or variable[3]
        if not os.environ.get(name):
            raise _refused(context, [((), f"the environment variable {name} is not set")], f"Set {name}.")
        return dg.EnvVar(name)
    text = _rendered(context, value)
    if not isinstance(text, str):
        raise _refused(context, [((), "this is no text")])
    return text


def _source(context: dg.ResolutionContext, value: str) -> str:
    source = _setting(context, value)
    try:
        RivetResource(source=source, destination="").get_resource_definition()
    except ConfigError as exc:
        raise _refused(
            context,
            [((), "the address holds a password, which Dagster would store and show")],
            'Put the whole address into an environment variable: "{{ env.PG_DSN }}".',
            exc.code,
        ) from None
    return source


def _workers(context: dg.ResolutionContext, value: Any) -> int:
    try:
        return RivetResource(source="", destination="", workers=_rendered(context, value)).workers
    except ValidationError as exc:
        raise _refused(context, [((), why) for _, why in _faults(exc)]) from None


def _exports(context: dg.ResolutionContext, value: Any) -> list[ExportConfig]:
    # Only a template of the whole list: those inside of it are filled in export by export.
    exports = _rendered(context, value) if isinstance(value, str) else value
    if not isinstance(exports, list | tuple):
        raise _refused(context, [((), "this is no list of exports")])
    return [_export(context.at_path(index), each) for index, each in enumerate(exports)]


def export_options(context: dg.ResolutionContext, values: Any) -> dict[str, Any]:
    """What is said of exports whose tables are not known yet, with its templates filled in.

    Raises:
        DeclarationError: RIVET_CONFIG_INVALID with the line and field at fault.
    """
    found = _rendered(context, values or {})
    if not isinstance(found, dict) or "table" in found:
        raise _refused(context, [((), "this is a mapping of fields that all exports have, without a table")])
    try:
        ExportConfig.model_validate({**found, "table": "any.table"})
    except ValidationError as exc:
        raise _refused(context, _faults(exc)) from None
    return found


def _export(context: dg.ResolutionContext, values: Any) -> ExportConfig:
    if isinstance(values, ExportConfig):  # out of a template variable
        return values
    if not isinstance(values, dict):
        raise _refused(context, [((), "an export is a mapping with a table in it")])
    # The translation is filled in later, once for every asset.
    plain = {name: value for name, value in values.items() if name != "translation"}
    try:
        config = ExportConfig.model_validate(_rendered(context, plain))
    except ValidationError as exc:
        raise _refused(context, _faults(exc)) from None
    translation = values.get("translation")
    if translation is None:
        return config
    if not isinstance(translation, str):
        try:
            translation = dg.AssetAttributesModel.model_validate(translation)
        except ValidationError as exc:
            raise _refused(context.at_path("translation"), _faults(exc)) from None
    return TranslatedExport(**dict(config), translation=_TRANSLATION.fn.callable(context, translation))


def _op(context: dg.ResolutionContext, model: Any) -> OpSpec:
    op = cast(OpSpec, OpSpec.resolve_from_model(context, model))
    if op.name or op.description:
        raise _refused(context, [((), "the ops of an export take their names and descriptions from its assets")])
    return op


def _declared(model: type[_Model]) -> Callable[[dg.ResolutionContext, Any], _Model | None]:
    def resolve(context: dg.ResolutionContext, values: Any) -> _Model | None:
        if values is None or isinstance(values, model):
            return values
        plain = values.model_dump(exclude_unset=True) if isinstance(values, BaseModel) else values
        try:
            return model.model_validate(_rendered(context, plain))
        except ValidationError as exc:
            raise _refused(context, _faults(exc)) from None

    return resolve


def _template_names(data: RivetTranslatorData) -> Mapping[str, Any]:
    # As in the usual asset keys: every key and tag may hold them.
    schema, table = (plain_name(part) for part in data.config.relation)
    return {"data": data, "role": data.role, "schema": schema, "table": table}


_TRANSLATION = TranslationFnResolver[RivetTranslatorData](_template_names)


# Fields that components share.
SourceField = Annotated[
    str,
    dg.Resolver(
        _source,
        model_field_type=str,
        inject_before_resolve=False,
        description="Address of the database. An address with a password in it is refused: give it as "
        "an environment variable.",
        examples=["{{ env.PG_DSN }}"],
    ),
]
DestinationField = Annotated[
    str,
    dg.Resolver(
        _setting,
        model_field_type=str,
        inject_before_resolve=False,
        description="Folder or address below which every table gets a folder.",
        examples=["{{ env.LAKE }}", "/data/lake"],
    ),
]
WorkersField = Annotated[
    int,
    dg.Resolver(
        _workers,
        model_field_type=int,
        inject_before_resolve=False,
        description="Connections that read windows at the same time.",
    ),
]
SpoolField = Annotated[
    str | None,
    dg.Resolver(
        lambda context, value: None if value is None else _setting(context, value),
        model_field_type=str | None,
        inject_before_resolve=False,
        description="Local folder for parts that are being written; the temporary folder by default.",
    ),
]
TranslationField = Annotated[TranslationFn[RivetTranslatorData], _TRANSLATION]
OpField = Annotated[
    OpSpec | None,
    dg.Resolver(
        _op,
        model_field_type=OpSpec.model() | None,
        description="Pool and tags of the ops that read from the source, and how many windows a run takes.",
        examples=[{"pool": "pg", "backfill_policy": {"type": "multi_run", "max_partitions_per_run": 100}}],
    ),
]
AutomationField = Annotated[
    "Automation | None",  # in quotes, as above
    dg.Resolver(
        _declared(Automation),
        model_field_type=Annotated[Any, ModelSchema(Automation)] | None,
        inject_before_resolve=False,
        description="Sensors for new rows and for windows to read again, schedules for slices of time.",
        examples=[{"extend": {"minimum_rows": 100000}, "reload": {"drifted_windows": 5}}],
    ),
]
GovernorField = Annotated[
    "GovernorConfig | None",
    dg.Resolver(
        _declared(GovernorConfig),
        model_field_type=Annotated[Any, ModelSchema(GovernorConfig)] | None,
        inject_before_resolve=False,
        description="How the source is taken care of: its load, replicas and connections, quiet hours, slots.",
        examples=[{"cores": 16, "slots": 4}],
    ),
]
ChecksField = Annotated[
    "Checks | None",
    dg.Resolver(
        _declared(Checks),
        model_field_type=Annotated[Any, ModelSchema(Checks)] | None,
        inject_before_resolve=False,
        description="Asset checks of every sealed table: its files, the source's rows, the source's columns.",
        examples=[{"integrity": "sample", "reconcile": "keys"}],
    ),
]


@dg.scaffold_with(RivetExportScaffolder)
@dataclass
class RivetExportComponent(dg.Component, dg.Resolvable):
    """Exports of database tables, declared in YAML.

    Each export becomes three assets, as with `build_rivet_assets`; the component brings the resource that they need.
    Subclass it and override `get_asset_spec` to change how its assets look.

    Example:
        .. code-block:: yaml

            type: rivet_dagster.RivetExportComponent
            attributes:
              source: "{{ env.PG_DSN }}"
              destination: "{{ env.LAKE }}"
              translation:
                group_name: lake
              exports:
                - table: public.orders
    """

    source: SourceField
    destination: DestinationField
    exports: Annotated[
        Sequence["ExportConfig"],  # in quotes: Dagster would look into it, and does not know models like these
        dg.Resolver(
            _exports,
            model_field_type=list[Annotated[Any, ExportsSchema()]],
            inject_before_resolve=False,
            description="The tables, each with its windows, format, limits, columns and translation.",
            examples=[[{"table": "public.orders", "windows": {"rows": 500000}}]],
        ),
    ]
    workers: WorkersField = 2
    engine: Literal["threads", "processes"] = "threads"
    spool_dir: SpoolField = None
    translation: TranslationField | None = None
    op: OpField = None
    automation: AutomationField = None
    checks: ChecksField = None
    governor: GovernorField = None

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What `dg list components` and Dagster's UI say of the component."""
        return dg.ComponentTypeSpec(
            description=cls.__doc__, tags=["postgres", "mysql", "parquet", "csv"], produces=["asset", "resource"]
        )

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Model of the attributes in YAML."""
        return with_exact_schema(super().model())

    def get_asset_spec(self, data: RivetTranslatorData) -> dg.AssetSpec:
        """Spec of one asset, after the translations of the component and of the export.

        A key that a translation gives is the table's; those of its plan and seal are below it.
        """
        spec = self._translated(data)
        if data.role == "table":
            return spec
        table = self._translated(replace(data, role="table")).key
        return spec.replace_attributes(key=[*table.path, data.role]) if spec.key == table else spec

    def _translated(self, data: RivetTranslatorData) -> dg.AssetSpec:
        spec = DagsterRivetTranslator().get_asset_spec(data)
        own = data.config.translation if isinstance(data.config, TranslatedExport) else None
        for translation in (self.translation, own):
            spec = translation(spec, data) if translation else spec
        if spec.partitions_def is not None:
            raise ConfigError(
                "RIVET_CONFIG_INVALID",
                f"A translation gives partitions to {spec.key.to_user_string()}.",
                "Leave partitions_def out: the partitions of a table are its windows.",
            )
        return spec

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The assets of all exports, and their resource."""
        key = _resource_key(context)
        op = self.op or OpSpec()
        resource = RivetResource(
            source=self.source,
            destination=self.destination,
            workers=self.workers,
            engine=self.engine,
            spool_dir=self.spool_dir,
            governor=self.governor,
        )
        translator = _ComponentTranslator(self)
        defs = dg.Definitions(
            assets=build_rivet_assets(
                *self.exports,
                resource_key=key,
                translator=translator,
                pool=op.pool,
                op_tags=op.tags,
                backfill_policy=op.backfill_policy,
                resource=resource,
            ),
            asset_checks=self._checks(key, translator),
            resources={key: resource},
        )
        if self.automation is None:
            return defs
        automation = build_rivet_automation(
            self.exports, self.automation, name=key, resource_key=key, translator=translator
        )
        return dg.Definitions.merge(defs, automation)

    def _checks(self, key: str, translator: DagsterRivetTranslator) -> list[dg.AssetChecksDefinition]:
        if self.checks is None:
            return []
        op = self.op or OpSpec()
        shared: dict[str, Any] = {"resource_key": key, "translator": translator, "pool": op.pool, "op_tags": op.tags}
        return build_rivet_checks(*self.exports, **self.checks.model_dump(), **shared)


class _ComponentTranslator(DagsterRivetTranslator):
    """Asks the component, whose subclasses may override it."""

    def __init__(self, component: RivetExportComponent) -> None:
        self._component = component

    def get_asset_spec(self, data: RivetTranslatorData) -> dg.AssetSpec:
        return self._component.get_asset_spec(data)


def _resource_key(context: dg.ComponentLoadContext) -> str:
    """A key for the resource, made of the component's place in the project: a project may have several."""
    # A file holds one component, number 0, as a rule.
    place = context.component_loc.get_display_key(context.defs_module_path).removesuffix("[0]")
    name = re.sub(r"[^A-Za-z0-9_]", "_", place)
    return f"rivet_{name}" if name == place else f"rivet_{name}_{hashlib.sha256(place.encode()).hexdigest()[:8]}"
