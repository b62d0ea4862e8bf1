"""pushforward.models."""

if __name__ == "models":  # on sys.path by accident (a checkout as working directory): look like an unrelated, empty module
    __version__ = "0"
