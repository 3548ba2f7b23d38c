"""Databases' types as a test sees them: values of each, what the server says of them, and how readers are held to it.

cases       tables and how they are exported, as JSON documents
expected    what the server says an export must hold
engine      what an engine's package gives
reading     what pyarrow and DuckDB read from Parquet parts, in the server's words; csvparts: the same of CSV parts
parquet     the Parquet schema that a table must have
roundtrip   exports a case in several ways and holds it against what is expected
reduce      makes a failing case small
tier        random tables, and those that were kept

postgres, mysql: an engine each, of
values      strategies of literals
kinds       the types, with their declarations and their literals; matrix.csv says what is expected of each
cases       strategies of cases
server      makes a case's table and asks the server for what is expected
"""
