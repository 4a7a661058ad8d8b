"""`python -m jaxvos.cli`, where the command itself is not on the path."""

from jaxvos.cli import main

main()
