from __future__ import annotations


class DataError(ValueError):
    """A file of a data set, or an argument that describes one, is not what it should be; the message names the cure."""


def mismatch(where: str, *, expected: str, found: object, cure: str) -> DataError:
    """Words a data error in the house's one sentence.

    Args:
        where: the file or the argument at fault.
        expected: what should have been there.
        found: what is there.
        cure: what to do about it.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(mismatch("folds", expected="an integer of at least 2", found=1, cure="ask for more folds"))
        folds: expected an integer of at least 2, found 1; ask for more folds.
    """
    return DataError(f"{where}: expected {expected}, found {found}; {cure}.")
