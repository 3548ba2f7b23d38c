"""MariaDB 10.6 and MySQL 8.0, and later: PyMySQL for the session, binary rows of prepared statements for the data."""
