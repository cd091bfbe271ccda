"""What the tests of this folder found out goes into the terminal, whatever the verbosity."""

import pytest

AGREEMENT = pytest.StashKey[list[list[str]]]()


@pytest.fixture
def agreement_table(request):
    """Rows of text that the terminal shows at the end, the first as their heading."""
    return request.config.stash.setdefault(AGREEMENT, [])


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(AGREEMENT, [])
    if not rows:
        return
    terminalreporter.section("twelve cases by five counters: Dice and IoU of class 1, mean over images or pooled")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
