#!/usr/bin/env bash
# Ends the Slurm that start.sh began in DIR, its jobs first, and nothing else.
#
# usage: stop.sh DIR
set -uo pipefail
dir=$(cd "$1" && pwd)
export SLURM_CONF=$dir/slurm.conf

# Cancelled jobs are waited for: a step that outlives its slurmd would be left behind.
if timeout 5 scancel --user="$(id -un)" 2>/dev/null; then
	for _ in $(seq 50); do
		[ -z "$(timeout 5 squeue --noheader)" ] && break
		sleep 0.1
	done
fi

daemons=()
for file in "$dir"/slurmd.pid "$dir"/slurmctld.pid "$dir"/munge/pid; do
	[ -s "$file" ] && daemons+=("$(cat "$file")")
done
[ ${#daemons[@]} = 0 ] && exit 0
kill "${daemons[@]}" 2>/dev/null
for _ in $(seq 100); do
	kill -0 "${daemons[@]}" 2>/dev/null || exit 0
	sleep 0.1
done
echo "still running after 10 seconds: ${daemons[*]}" >&2
exit 1
