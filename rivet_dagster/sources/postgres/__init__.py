"""PostgreSQL 13 and later: psycopg for the session, COPY BINARY for the rows."""
