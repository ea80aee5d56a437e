"""The bash that sources a config: it tells every command before it runs it, and ends those that do more than set variables."""

from __future__ import annotations

ALLOWED = ("basename", "cat", "cut", "date", "dirname", "grep", "head", "hostname", "id", "nproc", "readlink", "realpath", "sed", "seq",
           "sort", "tail", "tr", "uname", "wc", "whoami")  # fmt: skip
"""Programs that a config may call; anything else is no business of a file that sets variables."""
BUILTINS = ("alias", "bg", "bind", "builtin", "compgen", "complete", "compopt", "coproc", "disown", "enable", "eval", "exec", "fc", "fg",
            "hash", "history", "kill", "suspend", "trap")  # fmt: skip
"""What bash itself can do, but a config may not: it would reach other processes, files, or what the checks can't follow."""
WITHOUT_EFFECT = ("ulimit", "umask", "unalias")
"""These change the shell that sources the config and nothing in the job."""
NO_PATH = "/nonexistent"
OWN = ("STORMBENCH_CONFIG_", "STORMBENCH_TRACE_", "STORMBENCH_REFUSED_", "STORMBENCH_RESULT_", "STORMBENCH_ALLOWED_",
       "STORMBENCH_BUILTINS_", "STORMBENCH_READ_", "stormbench_each_", "stormbench_all_")  # fmt: skip
"""Variables of the driver."""
DRIVER = r"""
set -euo pipefail -CT
command_not_found_handle() {
    trap - DEBUG
    local stormbench_word_ stormbench_before_=
    for stormbench_word_ in "${@:2}"; do
        # these write files, run programs, or set the clock or the host's name
        case "$1 $stormbench_word_" in
            'sort -o'* | 'sort -'[!-]*o* | 'sort --o'* | 'sort --com'* | 'sed -i'* | 'sed -'[nEsruz]*i* | 'sed --i'* | 'date --s'*) ;;
            'hostname -'[sfiIdA] | 'hostname --'[sfladi]*) continue ;;
            hostname*) ;;
            'date '*)
                # -R and -u may stand before -s in one word; a date alone sets the clock too
                case "$stormbench_before_ ${stormbench_word_//[Ru]/}" in *' -s'*) ;;
                    '-d '* | '-r '* | '-f '* | '--date '* | '--reference '* | '--file '*) stormbench_before_=; continue ;;
                    *' '[0-9]*) ;; *) stormbench_before_=$stormbench_word_; continue ;;
                esac ;;
            *) continue ;;
        esac
        printf '%s\n' "$1 $stormbench_word_" >&"$STORMBENCH_REFUSED_"
        return 127
    done
    # nor may GNU's sed run or write what its script says
    [ "$1" != sed ] || ! /bin/sed --sandbox p </dev/null >/dev/null 2>&1 || set -- sed --sandbox "${@:2}"
    case " $STORMBENCH_ALLOWED_ " in
        *" $1 "*)
            for stormbench_word_ in /usr/local/bin /usr/bin /bin; do
                [ ! -x "$stormbench_word_/$1" ] || { LD_PRELOAD='' LD_AUDIT='' LD_LIBRARY_PATH='' "$stormbench_word_/$1" "${@:2}"; return; }
            done ;;
        *) printf '%s\n' "$1" >&"$STORMBENCH_REFUSED_" ;;
    esac
    return 127
}
stormbench_guard_() {
    local stormbench_rest_=$3 stormbench_word_ stormbench_before_
    printf '%s\0' "$@" >&"$STORMBENCH_TRACE_"
    # this driver's own commands belong to no file
    [ -n "$1" ] && [ "${FUNCNAME[1]:-}" != command_not_found_handle ] || return 0
    while stormbench_word_=${stormbench_rest_%%[[:space:]]*}; do
        # a value with quotes or expansions may go on behind the blank
        case $stormbench_word_ in
            "$stormbench_rest_" | [!A-Za-z_]* | *[\"\'\`\(\$\\]*) break ;;
            *=*) stormbench_rest_=${stormbench_rest_#*[[:space:]]} ;;
            *) break ;;
        esac
    done
    case $stormbench_word_ in
        [A-Za-z_]*=* | '(('*) stormbench_word_='' ;;
        */* | [\"\'\$\`\\]*) ;;
        command) case $stormbench_rest_ in 'command -'[vV]*) stormbench_word_='' ;; esac ;;
        # writing over files and running unseen stay forbidden, and children stay in this shell's process group
        set) case $stormbench_rest_ in
                *' +'*[CT]* | *'+o noclobber'* | *'+o functrace'* | *' -m'* | *' -'[a-z]m* | *'-o monitor'*) ;; *) stormbench_word_='' ;;
            esac ;;
        shopt) case $stormbench_rest_ in *' -o'* | *' -'[suqp]o* | *expand_aliases*) ;; *) stormbench_word_='' ;; esac ;;
        mapfile | readarray) case $stormbench_rest_ in *' -'*C*) ;; *) stormbench_word_='' ;; esac ;;
        # a file is read before it is sourced; what a command prints is not
        source | .) case $stormbench_rest_ in *'<('* | *'/dev/'* | *'/proc/'*) ;; *) stormbench_word_='' ;; esac ;;
        *) case " $STORMBENCH_BUILTINS_ " in *" $stormbench_word_ "*) ;; *) stormbench_word_='' ;; esac ;;
    esac
    # a file whose text was read has no such redirection; in others it is looked for here
    case $'\n'$STORMBENCH_READ_$'\n' in *$'\n'"$1"$'\n'*) ;; *) case $3 in
        *'> '* | *'>| '*)
            stormbench_before_=${3%%>[ |]*}
            stormbench_before_=${stormbench_before_//[!\"\']/}
            # behind an even number of quotes it stands outside of them
            [ $((${#stormbench_before_} % 2)) -ne 0 ] || case ${3#*>} in ' /dev/null'*) ;; *) stormbench_word_='>' ;; esac
            ;;
    esac ;; esac
    [ -z "$stormbench_word_" ] || { printf '%s\n' "$stormbench_word_" >&"$STORMBENCH_REFUSED_"; exit 127; }
}
unset PATH
export PATH=/nonexistent
readonly PATH STORMBENCH_CONFIG_ STORMBENCH_TRACE_ STORMBENCH_REFUSED_ STORMBENCH_RESULT_ STORMBENCH_ALLOWED_ STORMBENCH_BUILTINS_ \
    STORMBENCH_READ_
readonly -f stormbench_guard_ command_not_found_handle
trap 'stormbench_guard_ "${BASH_SOURCE[0]:-}" "$LINENO" "$BASH_COMMAND"' DEBUG
source "$STORMBENCH_CONFIG_"
trap - DEBUG
set +eu
while IFS= read -r stormbench_each_; do
    stormbench_all_="$stormbench_each_[*]"
    printf 'array\0%s\0%s\0' "$stormbench_each_" "${!stormbench_all_-}"
done < <(compgen -A arrayvar) >&"$STORMBENCH_RESULT_"
while IFS= read -r stormbench_each_; do
    printf 'exported\0%s\0%s\0' "$stormbench_each_" "${!stormbench_each_-}"
done < <(compgen -e) >&"$STORMBENCH_RESULT_"
while IFS= read -r stormbench_each_; do
    printf 'set\0%s\0%s\0' "$stormbench_each_" "${!stormbench_each_-}"
done < <(compgen -v) >&"$STORMBENCH_RESULT_"
printf 'end\0\0\0' >&"$STORMBENCH_RESULT_"
"""
