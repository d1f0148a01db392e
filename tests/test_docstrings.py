"""Examples in docstrings give what they say."""

import doctest
import sys

import pytest

from plstm_graph import PLSTM, LineGraphDAG, PLSTMConv, ToLineGraphDAG, stm
from plstm_graph.task import GraphTask


@pytest.mark.parametrize("documented", [PLSTM, LineGraphDAG, PLSTMConv, ToLineGraphDAG, stm, GraphTask])
def test_an_example_runs(documented):
    module = sys.modules[documented.__module__]
    [test] = doctest.DocTestFinder(recurse=False).find(documented, documented.__name__, module, globs={})
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
