"""Settings shared by all tests."""

import os

# Triton decides when it is imported: without a GPU, its interpreter runs the kernels on the CPU.
os.environ["TRITON_INTERPRET"] = "1"

from hypothesis import settings

# Compilation of the kernels makes a first example slow; the rest must be reproducible.
settings.register_profile("plstm_graph", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("plstm_graph")
