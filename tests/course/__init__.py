"""The lessons of docs/course."""
