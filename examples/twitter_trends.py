"""The trends producer under the name it had in the original. Twitter's trends are no more: see trends.py."""

from trends import main

if __name__ == "__main__":
    main()
