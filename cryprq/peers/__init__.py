"""Whom we have sessions with; carries out what sessions decide. No configuration, no operating system."""
