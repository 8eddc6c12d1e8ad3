"""Pictures of disks: one scene, drawn as SVG, as PNG or as text."""
