"""How faults act: one module for each place where the bench can disturb a run.

=============  ===========================================================  ==============
grid.py        what the world puts on a home: voltage, frequency, load, PV  mil, sil, hil
plant.py       the device itself: its battery, inverter, switch, timers     mil, sil, hil
orders.py      the broker between the controller and the devices            mil, sil, hil
candidate.py   the controller itself, its clock and its forecasts           mil, sil, hil
readings.py    what a device reports of itself, as data                     mil
messages.py    messages between controller and device, as data              mil
registers.py   what a device reports of itself, in its registers            sil, hil
link.py        bytes of the connection between controller and device        sil, hil
=============  ===========================================================  ==============

Each module has a table ``ACTS`` whose keys are the faults that it can do; from these tables alone follows at
which levels a fault can be injected.

Rules of this package: an effect sees the events in force and its own place, nothing else.  Its chance comes
from named streams of the run's seed, its time is the bench's.  When an event is over its effect is over: what
it changed is put back, but for what it has done to the world.
"""
