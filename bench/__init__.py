"""Benchmarks: the tunnel beside others, and its parts. Each program says at its top what it measures."""
