"""`python -m npsiglip`: the command `npsiglip`."""

from npsiglip.cli import main

if __name__ == "__main__":
    main()
