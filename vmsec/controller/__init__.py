"""Listens to the cloud's controller; holds no key and may be down."""
