"""Settings shared by all tests."""

from hypothesis import settings

# Compilation of the kernels makes a first example slow; the rest must be reproducible.
settings.register_profile("plstm_graph", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("plstm_graph")
