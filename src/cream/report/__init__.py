"""Reading a run's stored records into summaries and tables. Never runs a model."""
