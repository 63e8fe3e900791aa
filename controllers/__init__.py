"""Pooling controllers, and the contract that all a candidate may see is written in."""

if not __name__.startswith("ridethrough."):
    raise ImportError(
        "import ridethrough.controllers, not controllers: the bare name is a folder of the repository"
    )
