"""What Sphinx needs to make the site out of docs/: `make docs`.

links         paths of the repository in Markdown links: another page, or the file itself, highlighted
public_names  which Python names the reference shows
api_pages     a page a package
docstrings    this repository's docstrings as reStructuredText
commands      `refembed --help` and its verbs, as data
cli_pages     a page of them; `tools.shell_files` makes the man pages
openapi_page  the server's endpoints
architectures docs/architectures.md, a page an architecture
mathml        formulas that need no script
check         every link of the finished HTML, and that it loads nothing from elsewhere
"""
