"""The bench: it runs a scenario against a controller, records it and judges the record."""

if not __name__.startswith("ridethrough."):
    raise ImportError("import ridethrough.hil, not hil: that is a folder of the repository")
