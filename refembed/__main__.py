"""`python -m refembed` is `refembed`."""

from refembed.cli import main

main()
