"""What a run keeps: stages under fingerprints, Parquet tables, seeds, manifest, metrics."""
