"""The controller: what the cloud says of its VMs, passed on to the KMC."""
