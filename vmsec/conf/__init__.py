"""Options of the services: one module per group, read by services only."""
