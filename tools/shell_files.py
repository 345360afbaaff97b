"""Man pages and completion scripts, which the wheel installs under share/: `python -m tools.shell_files --write`.

Pages are made of the commands' own help (`tools.site.commands`); tests/test_shell_files.py holds share/ to what this
makes. Completion scripts only ask `refembed` what may follow, so they need no change when an option is added.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from refembed._version import __version__
from tools.site.commands import ENVIRONMENT, EXIT_CODES, Command, Text, commands

SHARE = Path(__file__).parents[1] / "share"
FISH = """\
# Completion of refembed in fish.
function _refembed_completion
    set -lx _REFEMBED_COMPLETE fish_complete
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD (commandline -t)
    set -l words (refembed)
    for word in $words
        set -l parts (string split -m 1 "," $word)
        switch $parts[1]
            case dir
                __fish_complete_directories $parts[2]
            case file
                __fish_complete_path $parts[2]
            case plain
                echo $parts[2]
        end
    end
end
complete --no-files --command refembed --arguments "(_refembed_completion)"
"""
BASH = """\
# Completion of refembed in bash, 4.4 or newer.
_refembed_completion() {
    local line kind value
    COMPREPLY=()
    while IFS= read -r line; do
        kind=${line%%,*} value=${line#*,}
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _REFEMBED_COMPLETE=bash_complete refembed)
}
complete -o nosort -F _refembed_completion refembed
"""
ZSH = """\
#compdef refembed
# Completion of refembed in zsh.
local -a words_found described
local kind value help
while IFS= read -r kind && IFS= read -r value && IFS= read -r help; do
    case $kind in
        dir) _path_files -/ ;;
        file) _path_files -f ;;
        plain)
            if [[ $help == _ ]]; then
                words_found+=("$value")
            else
                described+=("$value:$help")
            fi
            ;;
    esac
done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) _REFEMBED_COMPLETE=zsh_complete refembed)
(( ${#described} )) && _describe -V unsorted described -U
(( ${#words_found} )) && compadd -U -V unsorted -a words_found
"""


def roff(text: str) -> str:
    """Text whose characters mean themselves."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def prose(text: str) -> str:
    """Text with `code` in bold."""
    pieces = re.split(r"`([^`]*)`", text)
    return "".join(f"\\fB{roff(p)}\\fR" if i % 2 else roff(p) for i, p in enumerate(pieces))


def texts(paragraphs: Sequence[Text]) -> Iterator[str]:
    """Paragraphs, and blocks that keep their lines."""
    for text in paragraphs:
        if text.as_it_stands:
            yield from (".PP", ".nf", *(roff(line) for line in text.lines), ".fi")
        else:
            yield from (".PP", prose(" ".join(line.strip() for line in text.lines)))


def page(command: Command, verbs: Sequence[Command] = ()) -> str:
    """A man page. verbs: those that the page lists."""
    name = command.name.replace(" ", "-")
    lines = [
        f'.TH "{name.upper()}" "1" "" "refembed {__version__}" "refembed"',
        ".SH NAME", f"{roff(name)} \\- {prose(command.summary.rstrip('.'))}",
        ".SH SYNOPSIS", f"\\fB{roff(command.name)}\\fR {roff(command.usage)}",
        ".SH DESCRIPTION", *texts(command.about),
    ]  # fmt: skip
    if verbs:
        lines.append(".SH COMMANDS")
        for verb in verbs:
            lines += [".TP", f"\\fB{roff(verb.name)}\\fR", prose(verb.summary)]
    if command.options:
        lines.append(".SH OPTIONS")
        for spelling, what in command.options:
            lines += [".TP", f"\\fB{roff(spelling)}\\fR", prose(what)]
    if command.more:
        lines += [".SH EXAMPLES AND NOTES", *texts(command.more)]
    lines.append(".SH EXIT STATUS")
    for code, what in EXIT_CODES:
        lines += [".TP", f"\\fB{code}\\fR", prose(what)]
    if verbs:
        lines.append(".SH ENVIRONMENT")
        for variable, what in ENVIRONMENT:
            lines += [".TP", f"\\fB{roff(variable)}\\fR", prose(what)]
        lines += [".SH SEE ALSO", ", ".join(f"\\fB{roff(v.name.replace(' ', '-'))}\\fR(1)" for v in verbs)]
    else:
        lines += [".SH SEE ALSO", "\\fBrefembed\\fR(1)"]
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    """Path below share/ -> content."""
    first, *verbs = commands()
    made = {f"man/man1/{c.name.replace(' ', '-')}.1": page(c) for c in verbs}
    made["man/man1/refembed.1"] = page(first, verbs)
    return made | {
        "bash-completion/completions/refembed": BASH,
        "zsh/site-functions/_refembed": ZSH,
        "fish/vendor_completions.d/refembed.fish": FISH,
    }


def main() -> None:
    """Write them, or name those that are not as they would be written."""
    found = files()
    if "--write" in sys.argv:
        for name, text in found.items():
            (SHARE / name).parent.mkdir(parents=True, exist_ok=True)
            (SHARE / name).write_text(text, encoding="utf-8")
    old = [
        name
        for name, text in found.items()
        if not (SHARE / name).is_file() or (SHARE / name).read_text(encoding="utf-8") != text
    ]
    sys.exit(f"out of date: {', '.join(old)}" if old else 0)


if __name__ == "__main__":
    main()
