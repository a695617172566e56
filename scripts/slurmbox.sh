#!/usr/bin/env bash
# A whole SLURM cluster on this machine, to try hydra/launcher=slurm and for tests/test_slurm.py.
#
#   eval "$(scripts/slurmbox.sh up DIR [GPUS])"   start it and point SLURM's commands at it
#   scripts/slurmbox.sh down DIR                  cancel its jobs and stop it; safe to repeat
#
# One node with the machine's own CPUs and memory, accounting (submitit asks sacct for its jobs),
# GPUS fake devices for --gpus-per-node (0 by default), and two partitions: `main`, and `urgent`,
# whose jobs pre-empt those of `main`, which SLURM then requeues. All of it lives in DIR: key,
# database, logs. Its ports are SLURMBOX_PORT (16817) to +2; who calls must have the key.
#
# It needs root and, on Debian or Ubuntu,
#   apt-get install --no-install-recommends slurm-wlm munge slurmdbd mariadb-server
# whose own services may stay stopped. Use a container or a machine of its own: with srun on PATH,
# Lightning warns in every run that it is not used.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

DAEMONS="slurmd slurmctld slurmdbd mariadbd munged" # in the order in which they stop

die() {
    echo "slurmbox: $*" >&2
    exit 1
}

# pid DAEMON: the id of this box's daemon if it runs. The command line tells it from another program
# with a reused id, and from a zombie, which has none.
pid() {
    local id
    id=$(cat "$box/$1.pid" 2>/dev/null) || return
    [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$id/cmdline") == *"$1"* ]] && echo "$id"
} 2>/dev/null

# wait_for SECONDS COMMAND...: until the command succeeds; false when the time is over.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

# start DAEMON READY COMMAND...: run a daemon, its output to DAEMON.log, until READY succeeds.
start() {
    local daemon=$1 ready=$2
    shift 2
    setsid "$@" </dev/null >>"$box/$daemon.log" 2>&1 &
    wait_for 30 "$ready" && return
    echo "slurmbox: $daemon is not ready after 30 seconds; the end of $box/$daemon.log:" >&2
    tail -n 15 "$box/$daemon.log" >&2
    down
    exit 1
}

database() { mariadb --no-defaults --socket="$box/database.socket" --execute "select 1"; }
munge_answers() { munge --socket="$box/munge.socket" --no-input; }
accounting() { sacctmgr --noheader show cluster; }
controller() { scontrol ping | grep --quiet UP; }
idle() { sinfo --noheader --format=%T | grep --quiet idle; }
queue_is_empty() { [[ -z $(squeue --noheader) ]]; }

check() {
    ((EUID == 0)) || die "must be run as root: the daemons start jobs as their owners"
    local program
    for program in munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd; do
        command -v "$program" >/dev/null || die "$program is missing; apt-get install" \
            "--no-install-recommends slurm-wlm munge slurmdbd mariadb-server"
    done
    [[ $gpus =~ ^[0-9]+$ ]] || die "GPUS=$gpus must be a number"
    ((${#box} <= 80)) || die "$box is too long a path for a socket; use a shorter one"
    local daemon
    for daemon in $DAEMONS; do
        ! pid "$daemon" >/dev/null || die "$daemon runs already; first: slurmbox.sh down $box"
    done
    [[ -e $box/slurmbox || -z $(ls -A "$box" 2>/dev/null) ]] ||
        die "$box holds other files; give a new or empty directory"
}

# Fresh state every time: job ids restart at 1, and sacct must not know older jobs by the same ids.
prepare() {
    rm -rf "$box"/{state,spool,database,dev} "$box"/*.{log,pid,socket}
    mkdir -p "$box"/{state,spool,database,dev}
    touch "$box/slurmbox" # marks the directory as ours
    (umask 077 && head -c 128 /dev/urandom >"$box/munge.key")
    for ((i = 0; i < gpus; i++)); do # SLURM wants character devices; their digits are the index
        mknod "$box/dev/nvidia$i" c 1 3 || die "cannot make a device; try without GPUS"
    done
    mariadb-install-db --no-defaults --user=root --datadir="$box/database" --skip-test-db \
        >"$box/mariadbd.log" 2>&1 || die "no database could be made, see $box/mariadbd.log"
}

configure() {
    local host cpus memory auth cgroup=cgroup/v1
    host=$(hostname -s)
    cpus=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # it would obey them
    memory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    # cred_expire is also how long a requeued job waits, 120 seconds by default.
    auth="socket=$box/munge.socket,cred_expire=5"
    # No plugin below uses cgroups, but slurmd loads theirs; `disabled` came with 24.05.
    [[ $(slurmd -V | grep -o '[0-9.]*$') < 24.05 ]] || cgroup=disabled
    echo "CgroupPlugin=$cgroup" >"$box/cgroup.conf"
    echo "AutoDetect=off" >"$box/gres.conf"
    # nvidia_gpu_env: of the variables of all makers set CUDA_VISIBLE_DEVICES alone.
    ((gpus == 0)) || echo "NodeName=$host Name=gpu File=$box/dev/nvidia[0-$((gpus - 1))]" \
        "Flags=nvidia_gpu_env" >>"$box/gres.conf"

    (umask 077 && cat >"$box/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=$auth
DbdHost=localhost
DbdPort=$((port + 2))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
LogFile=$box/slurmdbd.log
PidFile=$box/slurmdbd.pid
CONF
    cat >"$box/slurm.conf" <<CONF
ClusterName=slurmbox
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=$auth
StateSaveLocation=$box/state
SlurmdSpoolDir=$box/spool
SlurmctldPidFile=$box/slurmctld.pid
SlurmdPidFile=$box/slurmd.pid
SlurmctldLogFile=$box/slurmctld.log
SlurmdLogFile=$box/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$box/munge.socket
AccountingStorageTRES=gres/gpu
# A job gets the CPUs and the memory that it asks for; who does not say, a share of the memory.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=$((memory / cpus))
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=2
# Seconds from SIGTERM to SIGKILL, for a cancelled and for a pre-empted job.
KillWait=5
ReturnToService=2
# Take the node as configured here, whatever slurmd finds in a container.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory Gres=gpu:$gpus State=UNKNOWN
PartitionName=main Nodes=$host Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=$host PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF
}

up() {
    check
    prepare
    configure
    start munged munge_answers munged --force --key-file="$box/munge.key" \
        --socket="$box/munge.socket" --pid-file="$box/munged.pid" \
        --log-file="$box/munged.log" --seed-file="$box/munge.seed"
    start mariadbd database mariadbd --no-defaults --user=root --datadir="$box/database" \
        --socket="$box/database.socket" --skip-networking --pid-file="$box/mariadbd.pid" \
        --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900
    # slurmdbd has no setting for the database's socket; the client library reads this one.
    start slurmdbd accounting env MYSQL_UNIX_PORT="$box/database.socket" slurmdbd
    # Already there in some versions.
    sacctmgr --immediate add cluster slurmbox >>"$box/slurmdbd.log" 2>&1 || true
    start slurmctld controller slurmctld -c -f "$SLURM_CONF"
    start slurmd idle slurmd -c -f "$SLURM_CONF" -N "$(hostname -s)"
    sinfo --format="slurmbox: node %N, partition %P, %c CPUs, %m MiB, %G" --noheader >&2
    echo "export SLURM_CONF=$SLURM_CONF"
}

down() {
    local daemon id
    if pid slurmctld >/dev/null; then # jobs outlive slurmd
        squeue --noheader --format=%A | xargs --no-run-if-empty scancel || true
        wait_for 20 queue_is_empty || echo "slurmbox: jobs are left: $(squeue --noheader)" >&2
    fi
    for daemon in $DAEMONS; do
        id=$(pid "$daemon") || continue
        kill "$id" 2>/dev/null || true
        if ! wait_for 15 gone "$daemon"; then
            echo "slurmbox: $daemon does not stop, killing it" >&2
            kill -KILL "$id" 2>/dev/null || true
        fi
    done
}
gone() { ! pid "$1"; }

command=${1:-} box=${2:-} gpus=${3:-0} port=${SLURMBOX_PORT:-16817}
[[ -n $box ]] || die "usage: slurmbox.sh up DIR [GPUS] | down DIR"
box=$(realpath --canonicalize-missing "$box")
export SLURM_CONF=$box/slurm.conf
case $command in
    up | down) "$command" ;;
    *) die "usage: slurmbox.sh up DIR [GPUS] | down DIR" ;;
esac
