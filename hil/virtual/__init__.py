"""Virtual time: an event loop that jumps to the next deadline, and a network in memory."""
