"""Quirks: the ways in which shipped products differ from the standard, on request.

Duty: layers between a device's own registers and a client, and the schema of the files that turn their knobs.

=============  ==================================================================================
schedule.py    when a quirk shows: windows of bench time, times of day, chance
maps.py        the right registers at the wrong place: base, lengths, end, models that come and go
values.py      the right register with the wrong thing in it: scale factors, signs, blanks, counters
writes.py      writes that are refused, lost or changed; with write_knobs, requests, timers and effects
knobs.py       a quirk file, and several quirks as one
unit.py        the layers of one device, put together
family.py      a product family: a device type with its quirks
=============  ==================================================================================

Rule of this package: the device inside is always true; only what a client sees, or gets done, is bent.
"""
