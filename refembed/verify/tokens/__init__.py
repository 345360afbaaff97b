"""Token ids of other programs, held against refembed's: `refembed tokenize --compare`."""
