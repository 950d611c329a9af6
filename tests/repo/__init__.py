"""Everything around the package: scripts, benchmarks, release, unit file."""
