"""How alembic runs: on the connection that the KMC gives it.

A new revision is a module in ``versions``, written by hand beside the change
to :mod:`vmsec.kmc.model`; a test compares the two.
"""

from __future__ import annotations

from alembic import context

from vmsec.kmc.model import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()
