"""A tour of vmsec on a real virtual machine; ``./quickstart`` runs it."""
