"""The virtual plant, and what a Modbus client sees of it."""

if not __name__.startswith("ridethrough."):
    raise ImportError("import ridethrough.emulator, not emulator: that is a folder of the repository")
