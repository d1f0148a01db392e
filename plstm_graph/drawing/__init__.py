"""Drawings of molecules: how they are oriented, which atom receives from which, what a prediction rests on.

.. code-block:: python

    draw_orientation("CC(=O)Nc1ccc(O)cc1", mode="D").save("orientation.svg")

    gatings = gating_matrices(network, data)
    matrix = gatings[0].dense(data.num_nodes).sum((2, 3))  # both directions, all heads
    draw_gating(data.smiles, matrix)
    draw_influence(data.smiles, matrix[:, 7], atom=7)  # what every atom receives from atom 7

    atoms, bonds = contributions(task, data)
    draw_contributions(data.smiles, atoms[:, 0], bonds[:, 0])
"""

from plstm_graph.drawing.molecules import draw_contributions, draw_gating, draw_influence, draw_orientation
from plstm_graph.drawing.svg import Drawing

__all__ = ["Drawing", "draw_contributions", "draw_gating", "draw_influence", "draw_orientation"]
