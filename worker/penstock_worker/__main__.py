"""`python -m penstock_worker` is the `penstock` command."""

from penstock_worker.cli import main

if __name__ == "__main__":
    main()
