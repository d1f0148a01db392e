"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4


@contextmanager
def whole_file(path: Path, mode: str = "w", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a file to write, which gets its name when the block ends without an error.

    Processes may write the same file at the same time: each writes its own, and the last one stays.

    Args:
        path: The file's name; its folder is made if it is missing.
        mode: ``"w"`` or ``"wb"``.
        **kwargs: Of :func:`open`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.unfinished")
    try:
        with open(unfinished, mode, **kwargs) as file:
            yield file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
