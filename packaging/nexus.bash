# SPDX-License-Identifier: Apache-2.0
# bash completion of nexus; install as /usr/share/bash-completion/completions/nexus

# Ids and names that the server knows; silence when it does not answer.
_nexus_words()
{
    local kind
    for kind in "$@"; do
        case $kind in
        containers) nexus ps -a 2>/dev/null | awk 'NR > 1 {print $1}' ;;
        pods) nexus pods 2>/dev/null | awk 'NR > 1 {print $1}' ;;
        images) nexus images 2>/dev/null | awk 'NR > 1 {print $2 == "<none>" ? $1 : $1 ":" $2}' ;;
        esac
    done
}

_nexus()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command='' i
    local commands='run ps pods images pull exec logs inspect stop rm rmi doctor version'
    local options='--help --address'

    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --address | --output | -o) ((i++)) ;;
        -*) ;;
        *) command=${COMP_WORDS[i]}; break ;;
        esac
    done
    case $prev in
    --output | -o) mapfile -t COMPREPLY < <(compgen -W 'table json' -- "$cur"); return ;;
    --type) mapfile -t COMPREPLY < <(compgen -W 'container pod image' -- "$cur"); return ;;
    --config | --log-dir) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    --pod) mapfile -t COMPREPLY < <(compgen -W "$(_nexus_words pods)" -- "$cur"); return ;;
    esac
    case $command in
    '') options+=' --output --version' ;;
    run) options+=' --name --env --memory --cpus --publish --workdir --user --pod --pull --detach --keep --grace --handler --log-dir' ;;
    ps) options+=' --output --all --pod --quiet' ;;
    pods) options+=' --output --ready --quiet --memory' ;;
    images) options+=' --output --quiet' ;;
    pull) options+=' --creds --quiet' ;;
    exec) options+=' --stdin --tty --timeout' ;;
    logs) options+=' --follow --tail --timestamps' ;;
    inspect) options+=' --type' ;;
    stop) options+=' --grace' ;;
    rm) options+=' --force' ;;
    doctor) options+=' --output --config --images --boot' ;;
    version) options+=' --output' ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
        return
    fi
    case $command in
    '') mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur") ;;
    run | images | pull | rmi) mapfile -t COMPREPLY < <(compgen -W "$(_nexus_words images)" -- "$cur") ;;
    exec | logs) mapfile -t COMPREPLY < <(compgen -W "$(_nexus_words containers)" -- "$cur") ;;
    stop | rm) mapfile -t COMPREPLY < <(compgen -W "$(_nexus_words containers pods)" -- "$cur") ;;
    inspect) mapfile -t COMPREPLY < <(compgen -W "$(_nexus_words containers pods images)" -- "$cur") ;;
    esac
}

complete -F _nexus nexus
