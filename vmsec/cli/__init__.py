"""The commands of ``vmsec``: one module per noun, no logic."""
