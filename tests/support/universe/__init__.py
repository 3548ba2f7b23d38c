"""PostgreSQL's types as a test sees them: values of each, what the server says of them, and how readers are held to it.

values      strategies of literals
kinds       the types, with their declarations and their literals; matrix.csv says what is expected of each
cases       tables as JSON documents, and strategies of them
server      makes a case's table and asks the server for what is expected
reading     what pyarrow and DuckDB read, in the server's words
roundtrip   exports a case and holds it against what is expected
"""
