"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from plstm_graph.errors import InputError


@contextmanager
def whole_file(path: Path, mode: str = "w", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a file to write, which gets its name when the block ends without an error and it is on the disk.

    Processes may write the same file at the same time: each writes its own, and the last one stays.

    Args:
        path: The file's name; its folder is made if it is missing.
        mode: ``"w"`` or ``"wb"``.
        **kwargs: Of :func:`open`.

    Raises:
        InputError: The disk is full or the folder cannot be written to; an earlier file of the name stays.
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, mode, **kwargs) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # torch's writer of archives fails once more, as it closes what it could not write.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        if cause.filename is not None and Path(cause.filename) not in (unfinished, *path.parents):
            raise  # of another file, which was read meanwhile
        raise InputError(
            f"{path} cannot be written: {cause.strerror or cause}; nothing of it is left."
        ) from error
