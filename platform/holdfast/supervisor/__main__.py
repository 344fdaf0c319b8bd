"""`python -m holdfast.supervisor`: the supervisor process."""

from holdfast.errors import exit_on_error
from holdfast.supervisor.main import main

if __name__ == "__main__":
    with exit_on_error():
        main()
