"""Makes `python -m node` the `lorikeet` command. Decides nothing."""

from .cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
