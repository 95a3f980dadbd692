# SPDX-License-Identifier: BSD-2-Clause
# Completion of bulkhead(8) for bash: options, the keys of their values, and files where nothing else fits.

# Prints the words that the value of an option may have between its commas.
_bulkhead_words()
{
    case $1 in
    --blockdev)
        echo 'file, host_device, raw, null-co, blkdebug, driver= node-name= filename= read-only= auto-read-only=
            force-share= discard= cache.direct= cache.no-flush= aio= locking= file= offset= size= latency-ns=
            read-zeroes= image= inject-error.'
        ;;
    --nbd-server) echo 'addr.type= addr.path= addr.abstract= addr.tight= addr.__org.bulkhead_mode=
            addr.__org.bulkhead_group= addr.host= addr.port= addr.to= addr.ipv4=
            addr.ipv6= addr.numeric= addr.keep-alive= addr.cid= addr.str= tls-creds= tls-authz= max-connections=
            handshake-max-seconds= __org.bulkhead_max-connections-per-peer=' ;;
    --export) echo 'nbd, vhost-user-blk, fuse, type= id= node-name= writable= writethrough= name= description=
            allocation-depth= __org.bulkhead_max-connections= addr.type= addr.path= addr.abstract= addr.tight=
            addr.__org.bulkhead_mode= addr.__org.bulkhead_group= addr.str= num-queues=
            logical-block-size= __org.bulkhead_poll-max-ns= mountpoint= growable= allow-other=' ;;
    --chardev) echo 'socket, stdio, null, backend= id= path= abstract= tight= __org.bulkhead_mode=
            __org.bulkhead_group= host= port= to= ipv4= ipv6= fd= server= wait=' ;;
    --monitor) echo 'chardev= pretty=' ;;
    --object)
        echo 'secret, tls-creds-x509, tls-creds-psk, tls-creds-anon, authz-simple, authz-list, authz-list-file,
            qom-type= id= dir= endpoint= verify-peer= priority= sanity-check= passwordid= data= file= format= identity=
            policy= rules. filename= refresh='
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
    --log-level,*) mapfile -t COMPREPLY < <(compgen -W 'error warning info debug' -- "$cur") ;;
    --log-to,*) mapfile -t COMPREPLY < <(compgen -W 'stderr syslog' -- "$cur") ;;
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
        mapfile -t COMPREPLY < <(compgen -W '--blockdev --chardev --daemonize --export --help --log-level --log-to --monitor --nbd-server
            --object --pidfile --user --version' -- "$cur")
        ;;
    esac
}

complete -o default -F _bulkhead bulkhead
