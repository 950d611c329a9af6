"""The only part that knows the operating system."""
