#!/usr/bin/env bash
# A Slurm of one node on loopback: munged, slurmctld and slurmd, everything they write below DIR. Needs root.
#
#     eval "$(tests/slurm/start.sh DIR)"     # then sinfo, squeue, snakemake --workflow-profile profiles/slurm …
#     tests/slurm/stop.sh DIR
#
# usage: start.sh DIR [GPUS [CONTROLLER_PORT NODE_PORT]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
gpus=${2:-1} controller_port=${3:-17817} node_port=${4:-17818}
host=$(hostname -s)
trap '{ tail -n 20 "$dir"/log/* "$dir"/munge/log || true; "$here/stop.sh" "$dir"; } >&2' ERR

mkdir -p "$dir"/{munge,state,spool,log,bin}
chmod 755 "$dir" "$dir/munge" # munged wants a socket that everyone can reach
(umask 077 && head -c 128 /dev/urandom >"$dir/munge/key")
: >"$dir/plugstack.conf"

# Any device file passes for a GPU: Slurm only counts it and sets CUDA_VISIBLE_DEVICES.
devices=(/dev/null /dev/zero /dev/full /dev/random)
{
	echo "AutoDetect=off"
	for ((gpu = 0; gpu < gpus; gpu++)); do echo "NodeName=node1 Name=gpu File=${devices[gpu]}"; done
} >"$dir/gres.conf"

# MinJobAge: without accounting, squeue must remember how jobs ended. The memory is made up, so that requests for a
# real cluster fit; nothing enforces it.
cat >"$dir/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge/socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd
PlugStackConfig=$dir/plugstack.conf
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/jobs_ended.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=2,sched_interval=2
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=2
GresTypes=gpu
NodeName=node1 NodeAddr=127.0.0.1 NodeHostname=$host Port=$node_port CPUs=2 RealMemory=1000000 Gres=gpu:$gpus
PartitionName=main Nodes=node1 Default=YES State=UP
CONF
export SLURM_CONF=$dir/slurm.conf

# The executor's jobstep hides SLURM_CONF from the srun that it calls; a cluster has /etc/slurm/slurm.conf instead.
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$dir/bin/srun"
chmod +x "$dir/bin/srun"

munged --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
	--log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
slurmctld -c -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N node1

for _ in $(seq 100); do
	if [ "$(sinfo --noheader --Node --format=%T 2>/dev/null)" = idle ]; then
		echo "export SLURM_CONF=$SLURM_CONF PATH=$dir/bin:\$PATH"
		exit 0
	fi
	sleep 0.1
done
echo "found no idle node after 10 seconds" >&2
false
