"""Kernels of our own for CPUs with AMX: `kernels.cpp`, compiled when it is first wanted and kept (`build.py`)."""
