"""Orientation of graphs to DAGs, and the line graphs of DAGs."""

from plstm_graph.dag.lattice import grid_dag, sequence_dag
from plstm_graph.dag.line_graph import Lattice, LineGraph, LineGraphDAG
from plstm_graph.dag.orientation import Orientation, OrientationName, Root, rank_nodes
from plstm_graph.dag.transform import (
    DAG_LAYOUT,
    LineGraphData,
    Preparation,
    ToLineGraphDAG,
    build_dag,
    dag_of,
    dag_tensors,
)
from plstm_graph.dag.walks import AddRandomWalkPE

__all__ = [
    "DAG_LAYOUT",
    "AddRandomWalkPE",
    "Lattice",
    "LineGraph",
    "LineGraphDAG",
    "LineGraphData",
    "Orientation",
    "OrientationName",
    "Preparation",
    "Root",
    "ToLineGraphDAG",
    "build_dag",
    "dag_of",
    "dag_tensors",
    "grid_dag",
    "rank_nodes",
    "sequence_dag",
]
