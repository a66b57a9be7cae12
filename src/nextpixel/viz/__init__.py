"""Pictures, charts and the report."""
