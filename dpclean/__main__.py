"""`python -m dpclean` is `dpclean`."""

from dpclean.cli import main

if __name__ == "__main__":
    main()
