"""Exports of production database tables to Parquet as Dagster assets."""
