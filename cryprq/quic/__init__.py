"""One UDP socket that speaks QUIC, and what strangers may cost. Knows frames, not sessions."""
