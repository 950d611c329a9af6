"""One UDP socket that speaks QUIC, and what strangers may cost. Knows frames, not sessions."""

from cryprq.quic import lazy_imports

lazy_imports.spare()  # before any module in here imports aioquic
