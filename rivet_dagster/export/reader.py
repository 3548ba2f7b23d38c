"""Reading a sealed export: one consistent table, whatever is exported into the same folder meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rivet_dagster.errors import PlanError
from rivet_dagster.export.documents import ExportManifest, SealedWindow
from rivet_dagster.export.seal import seal_in_force
from rivet_dagster.formats import format_of
from rivet_dagster.stores import Store, open_store

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.fs as pafs


def open_export(uri: str | os.PathLike[str]) -> Export:
    """Open a sealed export.

    Args:
        uri: path or address of the export's folder, such as `lake/public.orders`.

    Raises:
        PlanError: RIVET_EXPORT_UNSEALED where nothing was sealed yet.
        IntegrityError: RIVET_SEAL_BROKEN for a seal that was changed by hand; RIVET_DOCUMENT_INVALID for one of a newer
            version.
        ConfigError: RIVET_CONFIG_DESTINATION for an address that no store has.
        StoreError: the destination cannot be read.
    """
    return Export(open_store(os.fspath(uri)))


class Export:
    """An export as the seal in force shows it when it is opened, and again at every `refresh`.

    It names exact parts, which later exports do not change: what it gives is the table of one seal, also while
    windows are exported again. Opening it reads two small objects; Arrow is imported when rows are asked for.

    Args:
        store: the export's folder.

    Raises:
        PlanError, IntegrityError, StoreError: as `open_export`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._manifest = _seal_in_force(store)

    def __repr__(self) -> str:
        return f"<Export {self._store.uri} seal {self.seal_id}>"

    @property
    def manifest(self) -> ExportManifest:
        """The seal: columns, windows, parts, totals and fingerprints."""
        return self._manifest

    @property
    def seal_id(self) -> str:
        """Identifies the sealed state: equal rows under an equal plan have equal ids."""
        return self._manifest.seal_id

    @property
    def generation(self) -> int:
        """Number of the plan that was sealed."""
        return self._manifest.generation

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self._manifest.rows

    @property
    def windows(self) -> tuple[SealedWindow, ...]:
        """Its windows in key order, with their parts and fingerprints."""
        return self._manifest.windows

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts in key order, as tools on this machine open them: paths of local files, else addresses."""
        return tuple(path for window in self._manifest.windows for path in self.parts_of(window))

    @property
    def part_uris(self) -> tuple[str, ...]:
        """Addresses of the parts in key order; unusual characters of `file://` addresses are percent-encoded."""
        return tuple(self._store.url(part.path) for window in self._manifest.windows for part in window.parts)

    def parts_of(self, window: SealedWindow) -> tuple[str, ...]:
        """The parts of one window, as `parts`."""
        return tuple(_openable(self._store.url(part.path)) for part in window.parts)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the columns: names, types, nullability, and the native type in the fields' metadata."""
        import pyarrow as pa  # noqa: PLC0415 (opening an export does not pay for it)

        from rivet_dagster.sources.choices import NATIVE_TYPE_KEY  # noqa: PLC0415
        from rivet_dagster.sources.typenames import arrow_type  # noqa: PLC0415

        return pa.schema(
            [
                pa.field(
                    column.name,
                    arrow_type(column.type),
                    nullable=column.nullable,
                    metadata={NATIVE_TYPE_KEY: column.native_type.encode()},
                )
                for column in self._manifest.columns
            ]
        )

    def dataset(self) -> ds.Dataset:
        """The rows as a `pyarrow.dataset` over exactly the sealed parts, with `schema`.

        Parquet is read when the dataset is. CSV keeps no types, so its parts are read and converted now, into memory;
        `batches` does not hold them.

        Raises:
            IntegrityError, pyarrow.ArrowInvalid, OSError: a CSV part cannot be read.
        """
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.dataset as ds  # noqa: PLC0415

        manifest, schema = self._manifest, self.schema
        if _is_csv(manifest):
            return ds.dataset(pa.Table.from_batches(self._csv_batches(manifest, schema), schema))
        filesystem, paths = self._files(manifest)
        return ds.FileSystemDataset.from_paths(
            paths, schema=schema, format=ds.ParquetFileFormat(), filesystem=filesystem
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in key order, in batches of some megabytes or a row group; memory does not grow with the table.

        Raises:
            IntegrityError, pyarrow.ArrowInvalid, OSError: a part cannot be read.
        """
        manifest, schema = self._manifest, self.schema
        if _is_csv(manifest):
            return self._csv_batches(manifest, schema)
        return self._parquet_batches(manifest, schema)

    def refresh(self) -> bool:
        """Go on to the seal that is in force now.

        Datasets and batches that were taken before stay what they are.

        Returns:
            Whether it is another one.

        Raises:
            PlanError, IntegrityError, StoreError: as `open_export`; the export stays as it is.
        """
        before, self._manifest = self._manifest, _seal_in_force(self._store)
        return before.seal_id != self._manifest.seal_id

    def _files(self, manifest: ExportManifest) -> tuple[pafs.FileSystem, list[str]]:
        """Arrow's file system for the store, and the parts' paths there."""
        from pyarrow.fs import FileSystem  # noqa: PLC0415

        filesystem, root = FileSystem.from_uri(self._store.uri)
        return filesystem, [f"{root.rstrip('/')}/{part.path}" for window in manifest.windows for part in window.parts]

    def _parquet_batches(self, manifest: ExportManifest, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq  # noqa: PLC0415

        filesystem, paths = self._files(manifest)
        for path in paths:
            with filesystem.open_input_file(path) as stream:
                file = pq.ParquetFile(stream)
                for group in range(file.num_row_groups):
                    for batch in file.read_row_group(group).to_batches():
                        yield batch.cast(schema)

    def _csv_batches(self, manifest: ExportManifest, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        from rivet_dagster.formats.csv_reader import read_csv  # noqa: PLC0415

        filesystem, paths = self._files(manifest)
        for path in paths:
            with filesystem.open_input_stream(path) as stream:  # decompressed, by the suffix
                yield from read_csv(stream, schema)


def _is_csv(manifest: ExportManifest) -> bool:
    """A seal has parts of one format, or none."""
    return any(format_of(part.path).suffix == "csv" for window in manifest.windows for part in window.parts)


def _openable(url: str) -> str:
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "file" else url


def _seal_in_force(store: Store) -> ExportManifest:
    seal = seal_in_force(store)
    if seal is None:
        raise PlanError(
            "RIVET_EXPORT_UNSEALED",
            f"{store.uri} holds no sealed export.",
            "Check the address; export every window and seal it first.",
        )
    return seal
