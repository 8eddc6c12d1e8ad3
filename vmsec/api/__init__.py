"""The operators' HTTP interface, on a UNIX socket in the all-in-one."""
