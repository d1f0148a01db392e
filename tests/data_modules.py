"""What tests do with data modules."""

from pathlib import Path

from plstm_graph.datasets import GraphDataModule


def prepared(module: GraphDataModule) -> GraphDataModule:
    module.prepare_data()
    module.setup("fit")
    return module


PEPTIDE = "NCC(=O)" * 75 + "O"  # 301 atoms


def own_table(folder: Path, text: str = "") -> Path:
    """A table with all that tables have, Windows line ends too."""
    smiles = [f"{'C' * n}O" for n in range(1, 9)] + ["C", "C", "[Na+].[Cl-]", PEPTIDE, "C(C", "", "nonsense"]
    rows = ["id,smiles,active,part"]
    parts = ["train", "train", "val", "test"]
    rows += [f"{i},{text_},{'' if i % 5 == 1 else i % 2},{parts[i % 4]}" for i, text_ in enumerate(smiles)]
    path = folder / "mine.csv"
    path.write_bytes(("\r\n".join(rows) + text).encode())
    return path
