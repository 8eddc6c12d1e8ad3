"""The compute node's agent: seals at release, unseals at prepare."""
