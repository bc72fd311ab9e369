"""`python -m prudent`, for where the `prudent` script is not on the path."""

from prudent.cli import main

main()
