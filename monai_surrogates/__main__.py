"""``python -m monai_surrogates``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    try:
        from monai_surrogates import cli
    except ModuleNotFoundError as error:
        sys.exit(f"The command line needs {error.name}; install it with: pip install 'monai-surrogates[study]'")
    cli.app(prog_name="monai-surrogates")


if __name__ == "__main__":
    main()
