"""One row for each call: its tokens, its cost and how it ended, first in a journal, then in the database."""
