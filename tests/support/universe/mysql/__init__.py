"""MySQL and MariaDB, as the tests see them."""
