"""Whole nodes with real TUN devices, in network namespaces."""
