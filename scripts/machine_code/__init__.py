"""What scripts/constant_time.py knows of the machine code of two kinds of CPU."""
