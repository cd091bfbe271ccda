from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import uuid4


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file in one step: whoever opens it, at any time, finds the old content or the new one, whole.

    A killed process or a full disk leaves the old file, or none where there was none. Several processes may write the
    same file; the last one stays. A new file gets the mode that the umask gives, an old one keeps its own.

    Args:
        path: the file; its folders are made.
        content: bytes, or text that is written as UTF-8.

    Raises:
        OSError: the file cannot be written; nothing has changed, and nothing is left beside it.

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
            os.fsync(stream.fileno())  # or a crash of the machine could leave the new name without its content
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
