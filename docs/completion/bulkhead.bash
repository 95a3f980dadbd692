# SPDX-License-Identifier: BSD-2-Clause
# Completion of bulkhead(8) for bash: options, the keys of their values, and files where nothing else fits.

# Prints the words that the value of an option may have between its commas.
_bulkhead_words()
{
    case $1 in
    --blockdev)
        echo 'file, host_device, raw, null-co, blkdebug, node-name= filename= read-only= auto-read-only= discard=
            cache.direct= cache.no-flush= aio= locking= file= offset= size= latency-ns= read-zeroes= image='
        ;;
    --nbd-server) echo 'addr.type= addr.path= addr.host= addr.port= addr.str= tls-creds= tls-authz= max-connections=
            handshake-max-seconds=' ;;
    --export) echo 'nbd, vhost-user-blk, fuse, id= node-name= name= description= writable= writethrough= addr.type= addr.path=
            addr.str= num-queues= logical-block-size= mountpoint= growable= allow-other=' ;;
    --chardev) echo 'socket, stdio, id= path= host= port= fd= server= wait=' ;;
    --monitor) echo 'chardev=' ;;
    --object)
        echo 'secret, tls-creds-x509, tls-creds-psk, tls-creds-anon, authz-simple, authz-list, authz-list-file, id= dir=
            endpoint= verify-peer= priority= sanity-check= passwordid= data= file= format= identity= policy= filename='
        ;;
    esac
}

_bulkhead()
{
    local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} head='' option='' i

    COMPREPLY=()
    # Readline breaks words at '=', so the option that we are in may be several words back.
    for ((i = COMP_CWORD - 1; i > 0; i--)); do
        [[ ${COMP_WORDS[i]} == --* ]] && option=${COMP_WORDS[i]} && break
    done
    case $before,$option in
    --user,*) mapfile -t COMPREPLY < <(compgen -u -- "$cur") ;;
    --pidfile,*) ;;
    --blockdev,* | --nbd-server,* | --export,* | --chardev,* | --monitor,* | --object,* | =,--*)
        [[ $cur == = ]] && cur=''
        if [[ $cur == *,* ]]; then
            head=${cur%,*},
        elif [[ $before == = ]]; then
            return # a value: perhaps a file
        fi
        mapfile -t COMPREPLY < <(compgen -P "$head" -W "$(_bulkhead_words "$option")" -- "${cur##*,}")
        compopt -o nospace
        ;;
    *)
        [[ $cur == = ]] && return
        mapfile -t COMPREPLY < <(compgen -W '--blockdev --chardev --daemonize --export --help --monitor --nbd-server
            --object --pidfile --user --version' -- "$cur")
        ;;
    esac
}

complete -o default -F _bulkhead bulkhead
