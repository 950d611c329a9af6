"""The network inside: who owns which inner address. Knows no peer object."""
