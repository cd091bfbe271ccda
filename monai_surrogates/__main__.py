"""``python -m monai_surrogates``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or name the package that it lacks."""
    try:
        from monai_surrogates import cli
    except ModuleNotFoundError as error:
        print(f"The command line needs {error.name}; pip install 'monai-surrogates[study]' brings it.", file=sys.stderr)
        sys.exit(2)
    cli.app(prog_name="monai-surrogates")


if __name__ == "__main__":
    main()
