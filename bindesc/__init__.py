"""bindesc: a learned 256-bit binary local feature descriptor and an exact Hamming matcher."""

__version__ = "0.1.0"
