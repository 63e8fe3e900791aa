"""SunSpec's conformance procedures and capability discovery, run against any target, in our own words."""
