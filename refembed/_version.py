"""The one place that states the version: pyproject.toml, `refembed --version` and written files read it here."""

__version__ = "0.1.0"
