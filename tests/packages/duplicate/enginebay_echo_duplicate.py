"""Nothing here is ever imported: two distributions with one kind are an error before that."""

raise AssertionError("a duplicate must not be imported")
