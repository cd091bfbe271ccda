from __future__ import annotations


class DataError(ValueError):
    """A wrong file of a data set, or a wrong argument that describes one; the message has the cure."""


def mismatch(where: str, *, expected: str, found: object, cure: str) -> DataError:
    """A data error whose message is one sentence: place, expected, found, cure.

    Args:
        where: the file or the argument at fault.
        expected: the expected value or content, in words.
        found: the value or content found.
        cure: advice in the imperative.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(mismatch("folds", expected="an integer of at least 2", found=1, cure="ask for more folds"))
        folds: expected an integer of at least 2, found 1; ask for more folds.
    """
    return DataError(f"{where}: expected {expected}, found {found}; {cure}.")
