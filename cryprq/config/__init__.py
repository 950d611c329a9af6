"""Words from outside become one frozen ``NodeConfig``."""
