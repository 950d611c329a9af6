"""docs/protocol.md in code: bytes, keys, states. No socket, no clock, no file."""
