"""File formats of parts; each format is one module."""
