"""One module at a time, in memory or on loopback."""
