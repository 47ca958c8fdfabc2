"""Numba kernels: pure functions on numpy arrays that write into given buffers.

The only place that imports numba. No kernel does I/O, raises, or starts a thread.
"""
