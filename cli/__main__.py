"""``python -m fbind.cli``: the command line without the ``fbind`` script on the path."""

from .main import main

if __name__ == "__main__":
    main()
