from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import uuid4


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file in one step: a reader finds the complete old content or the complete new one at any time.

    A killed process or a full disk leaves the old file, or none if there was none. Several processes may write the
    same file; the last one wins. A new file gets the mode of the umask, an old one keeps its own.

    Args:
        path: the file; missing folders are made.
        content: bytes, or text to be written as UTF-8.

    Raises:
        OSError: the file cannot be written; nothing has changed, and no temporary file is left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(f"{folder}/scores/mean.txt", "0.9")
        ...     print(Path(f"{folder}/scores/mean.txt").read_text())
        0.9
    """
    target, data = Path(path), content.encode() if isinstance(content, str) else content
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())  # so that a crash of the machine cannot leave the new name without its content
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
