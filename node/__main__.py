"""`python -m node` is the `lorikeet` command."""

from .cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
