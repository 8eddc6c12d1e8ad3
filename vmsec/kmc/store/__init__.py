"""The KMC's database: one module per noun, and the sessions they share.

Functions take a session and do one thing in it; transactions are opened by
:class:`~vmsec.kmc.store.database.Database` only, and kept short: nobody talks
to a TPM inside one.
"""
