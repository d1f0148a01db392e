"""Download public data and verify its SHA-256."""

import re
import tempfile
from pathlib import Path

import torch
from torch_geometric.data import extract_zip

from plstm_graph.errors import InputError


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """Fetch a file, which appears whole and with this checksum or not at all.

    Args:
        url: Where from.
        sha256: SHA-256 of the file, 64 hexadecimal digits.
        folder: Where to.

    Returns:
        The file.

    Raises:
        InputError: The checksum is none, another file came, or nothing came.
    """
    if re.fullmatch("[0-9a-fA-F]{64}", sha256) is None:
        raise InputError(
            f"{sha256!r} is no SHA-256 of 64 hexadecimal digits; sha256sum prints that of a copy you trust."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / url.rpartition("/")[2]
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256.lower())
    except RuntimeError as error:  # of the checksum; what came has been deleted
        raise InputError(f"What {url} gives is not what the checksum asks for: {error}.") from error
    except OSError as error:
        raise InputError(f"{url} could not be fetched into {folder}: {error}.") from error
    return path


def fetch_folder(url: str, sha256: str, inner: str, folder: Path) -> None:
    """Fetch a ZIP archive and unpack one of its folders, which appears whole or not at all.

    Args:
        url: Where from.
        sha256: SHA-256 of the archive.
        inner: Name of the folder in the archive.
        folder: What the folder becomes.

    Raises:
        InputError: As of :func:`fetch`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.unfinished.") as unfinished:
        archive = fetch(url, sha256, Path(unfinished))
        extract_zip(str(archive), unfinished)
        (Path(unfinished) / inner).rename(folder)
