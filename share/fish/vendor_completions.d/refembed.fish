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
