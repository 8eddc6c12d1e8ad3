"""Sealing of disk images: plan, device, journal, engine. The only writer."""
