"""The bench: it runs a scenario against a controller, records it and judges the record."""

if not __name__.startswith("ridethrough."):
    raise ImportError("import ridethrough.hil instead of hil: the bare name is a folder of the repository, not a package")
