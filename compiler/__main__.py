"""`python -m modnorm`."""

from modnorm.cli import main

if __name__ == "__main__":
    main()
