"""Orientation of graphs to DAGs, and the line graphs of DAGs."""

from plstm_graph.dag.line_graph import LineGraphDAG
from plstm_graph.dag.orientation import Orientation, OrientationName, rank_nodes
from plstm_graph.dag.transform import LineGraphData, ToLineGraphDAG, build_dag, dag_of

__all__ = [
    "LineGraphDAG",
    "LineGraphData",
    "Orientation",
    "OrientationName",
    "ToLineGraphDAG",
    "build_dag",
    "dag_of",
    "rank_nodes",
]
