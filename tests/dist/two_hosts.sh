#!/bin/bash
# usage: two_hosts.sh PROGRAM [ARGUMENT...]     runs PROGRAM with 2 + 2 ranks on two hosts made of network namespaces.
# Each has its own address and host name, joined by a virtual cable, so MPI goes over TCP and finds two hosts. Needs root
# and `ip netns`; exits 77 (skipped) with the reason where it cannot. nsenter goes inside rather than `ip netns exec` and
# `ip -n`, which mount and so fail in a chroot.
set -u
[ "$(id -u)" = 0 ] || { echo "SKIPPED: two hosts need root"; exit 77; }
command -v ip >/dev/null && command -v unshare >/dev/null || { echo "SKIPPED: two hosts need iproute2 and unshare"; exit 77; }
inside() { nsenter --net="/run/netns/$1" "${@:2}"; }
a=ft-a-$$ b=ft-b-$$ net=10.213.77
work=$(mktemp -d) || exit 1
cleanup() {
  for ns in "$a" "$b"; do
    for pid in $(ip netns pids "$ns" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
    ip netns del "$ns" 2>/dev/null
  done
  rm -rf "$work"
}
trap cleanup EXIT
ip netns add "$a" 2>"$work/why" && ip netns add "$b" 2>>"$work/why" &&
  ip link add "ft0-$$" netns "$a" type veth peer name "ft1-$$" netns "$b" 2>>"$work/why" &&
  unshare --uts true 2>>"$work/why" || { echo "SKIPPED: no network namespaces here: $(tail -1 "$work/why")"; exit 77; }
inside "$a" ip addr add $net.1/24 dev "ft0-$$"; inside "$b" ip addr add $net.2/24 dev "ft1-$$"
for end in "$a ft0-$$" "$b ft1-$$"; do
  inside "${end% *}" ip link set "${end#* }" up
  inside "${end% *}" ip link set lo up
done

# What mpirun calls instead of ssh: AGENT host command...
cat > "$work/agent" <<EOF
#!/bin/bash
shift
exec nsenter --net=/run/netns/$b unshare --uts bash -c "hostname facetrain-b; \$*"
EOF
chmod +x "$work/agent"
printf '%s\n' "$net.1 slots=2" "$net.2 slots=2" > "$work/hosts"

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
export FACETRAIN_TEST_RANKS=4 FACETRAIN_TEST_HOSTS=2
timeout --kill-after=5 "${FACETRAIN_TWO_HOSTS_SECONDS:-240}" nsenter --net="/run/netns/$a" unshare --uts bash -c 'hostname facetrain-a; exec "$@"' two_hosts \
  mpirun -np 4 --hostfile "$work/hosts" --map-by node --bind-to none --oversubscribe \
  --mca plm_rsh_agent "$work/agent" --mca oob_tcp_if_include $net.0/24 --mca btl_tcp_if_include $net.0/24 \
  -x FACETRAIN_TEST_RANKS -x FACETRAIN_TEST_HOSTS -x OMP_NUM_THREADS "$@"
