"""The schema's history; alembic runs it when the KMC starts."""
