"""Pictures of images, charts, explained figures and the report."""
