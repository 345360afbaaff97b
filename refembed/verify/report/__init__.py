"""What `refembed verify` found, for readers: as text, as data, as an HTML page."""
