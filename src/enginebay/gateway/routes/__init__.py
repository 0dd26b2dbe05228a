"""One file for each group of routes; each handler takes what is served and one exchange."""
