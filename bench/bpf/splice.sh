#!/bin/sh
# SPDX-License-Identifier: MIT
# Requests a second, median and 99th percentile of `berth bpf splice` beside the nginx of reader_lib/lua, before the same
# nodes, in the same run: rounds of all of them in turn, medians and ranges. Small GETs and POSTs of two tenants on kept-alive
# connections; nginx without an access log. Clients, proxy and nodes are in three network namespaces with veths between them:
#
#   wrk ---- veth ---- splice or nginx, berthd --bpf ---- veth ---- nginx as nodes
#
# The proxy has the last processor for itself, and everybody else the first: processes by taskset, what the kernel does for
# packets that arrive by RPS. So a round ends at the proxy's processor, or at the others'; how busy each was is printed, and
# the busy time of the proxy's a request is what a request costs there, programs, TCP, kernel workers and all.
#   bench/bpf/splice.sh [ROUNDS [SECONDS [CONNECTIONS]]]      root; wrk, nginx with its Lua module; BERTH_BUILD (build)
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "${BERTH_BUILD:-build}")
rounds=${1:-5} seconds=${2:-2} connections=${3:-32}
for need in wrk nginx python3 ip nsenter taskset; do
	command -v $need >/dev/null || { echo "SKIP: there is no $need"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "SKIP: packet programs need root"; exit 0; }
last=$(($(nproc) - 1))
[ $last -gt 0 ] || { echo "SKIP: needs two processors"; exit 0; }
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf

home=$(mktemp -d /tmp/berth-bench-splice-XXXXXX)
dir=$(mktemp -d /dev/shm/berth-bench-splice-XXXXXX)
name=berth-$$
pids=
stop() {
	for pid in $pids; do kill "$pid" 2>/dev/null || true; done
	for pid in $pids; do wait "$pid" 2>/dev/null || true; done
	for n in client proxy node; do ip netns del $name-$n 2>/dev/null || true; done
	rm -rf "$home" "$dir" "/sys/fs/bpf/berth/$(basename "$dir")"
}
trap stop EXIT
trap 'exit 1' INT TERM

# Packets that arrive at this device are this processor's to work on. (Namespaces have a sysfs each: mounted for a moment.)
steered() {
	nsenter --net="/run/netns/$name-$1" unshare -m sh -c \
		"mount -t sysfs sysfs /sys && echo $(printf %x $((1 << $3))) >/sys/class/net/$2/queues/rx-0/rps_cpus"
}
for n in client proxy node; do
	ip netns add $name-$n
	ip -n $name-$n link set lo up
done
ip -n $name-client link add berth0 type veth peer name berth0 netns $name-proxy
ip -n $name-node link add berth1 type veth peer name berth1 netns $name-proxy
for each in client:berth0:10.9.0.2 proxy:berth0:10.9.0.1 proxy:berth1:10.9.1.1 node:berth1:10.9.1.2; do
	n=${each%%:*} address=${each##*:} device=${each#*:}
	device=${device%:*}
	ip -n "$name-$n" address add "$address/24" dev "$device"
	ip -n "$name-$n" link set "$device" up
done
steered client berth0 0
steered proxy berth0 $last
steered proxy berth1 $last
steered proxy lo $last
steered node berth1 0
at() { # in a namespace, on a processor; `ip netns exec` would hide the file system of pins
	where=$1 cpu=$2
	shift 2
	exec nsenter --net="/run/netns/$name-$where" taskset -c "$cpu" "$@"
}

# Waits until a file has a line with this, ten seconds at most.
until_said() {
	python3 -c 'import sys, time
end = time.time() + 10
while sys.argv[2] not in open(sys.argv[1]).read():
    if time.time() > end: sys.exit(sys.argv[1] + ": no " + sys.argv[2] + ": " + open(sys.argv[1]).read())
    time.sleep(0.01)' "$1" "$2"
}

cat >"$home/nodes.conf" <<EOT
user root; worker_processes 1; error_log nodes.log; pid nodes.pid; daemon off; master_process off;
events { worker_connections 8192; }
http {
	access_log off; keepalive_requests 1000000000;
	client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
	server { listen 10.9.1.2:9201 backlog=4096; listen 10.9.1.2:9202 backlog=4096;
		location / { return 200 "$(printf '%0100d' 0)"; } }
}
EOT
sed -e "s|user www-data berth;|user root; daemon off;|" -e "s|worker_processes 4|worker_processes 1|" \
	-e "s|# lua_package_path .*|lua_package_path \"$PWD/reader_lib/lua/?.lua;;\"; keepalive_requests 1000000000;|" \
	-e "s|instance = \"/dev/shm/berth/default\"|instance = \"$dir\"|" -e "s|listen 127.0.0.1:9280;|listen 10.9.0.1:9280 backlog=4096;|" \
	-e "s|access_log access.log berth;|access_log off;|" -e "s|keepalive 64; |keepalive 1024; keepalive_requests 1000000000; |" \
	reader_lib/lua/nginx.conf >"$home/proxy.conf"

"$build/berthd" --dir "$dir" --store memory: --bpf 2>"$home/berthd.log" & pids="$! $pids"
until_said "$home/berthd.log" event=ready
berth() { "$build/berth" --dir "$dir" "$@"; }
berth cluster set c1 --endpoint "http://10.9.1.2:9201" >/dev/null
berth cluster set c2 --endpoint "http://10.9.1.2:9202" >/dev/null
berth set acme --mode dedicated-cluster --cluster c1 >/dev/null
berth set globex --mode dedicated-cluster --cluster c2 >/dev/null
(at node 0 nginx -p "$home" -c nodes.conf 2>/dev/null) & pids="$! $pids"
(BERTH_LIBRARY="$build/libberth.so" at proxy "$last" nginx -p "$home" -c proxy.conf 2>/dev/null) & pids="$! $pids"
(at proxy "$last" "$build/berth" --dir "$dir" bpf splice --listen 10.9.0.1:9200 --fallback 10.9.0.1:9280 >"$home/splice.log") & pids="$! $pids"
until_said "$home/splice.log" "listening on port"

# Requests are made ahead: a client that builds each costs as much as a node.
for method in GET POST; do
	body=
	[ $method = GET ] || body=', string.rep("x", 200)'
	cat >"$home/$method.lua" <<EOT
local made, i = {}, 0
function init()
	for k, tenant in ipairs({"acme", "globex"}) do
		made[k - 1] = wrk.format("$method", "/index/_doc/1", {["X-Partition"] = tenant}$body)
	end
end
function request()
	i = 1 - i
	return made[i]
end
EOT
done

# What others run takes time from processes more than from kernel workers, so from nginx more than from splice.
quiet=$({ grep '^cpu ' /proc/stat; sleep 1; grep '^cpu ' /proc/stat; } |
	awk '{for (i = 2; i < 9; i++) all[NR] += $i; idle[NR] = $5} END {print int(100 * (idle[2] - idle[1]) / (all[2] - all[1]))}')
[ "$quiet" -ge 80 ] || echo "note: not a quiet machine (idle $quiet %, nothing of this measured yet): the ratios say nothing"

# Busy and all time so far of a processor, in ticks.
ticks() {
	awk -v cpu="cpu$1" '$1 == cpu {print $2 + $3 + $4 + $7 + $8, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9}' /proc/stat
}
hz=$(getconf CLK_TCK)
for round in $(seq "$rounds"); do
	for method in GET POST; do
		for way in splice:9200 nginx:9280; do
			before="$(ticks "$last") $(ticks 0)"
			(at client 0 wrk -t1 -c"$connections" -d"$seconds" --latency -s "$home/$method.lua" "http://10.9.0.1:${way#*:}/") >"$home/wrk"
			after="$(ticks "$last") $(ticks 0)"
			echo "$before $after" | awk -v hz="$hz" -v name="$method ${way%:*}" '
				FNR == NR {busy = $5 - $1; all = $6 - $2; other = $7 - $3; others = $8 - $4; next}
				$1 == "50%" {a = $2} $1 == "99%" {b = $2} /^Requests/ {r = $2} / requests in / {n = $1}
				/Socket errors|Non-2xx/ {e = e " " $0}
				END {print name, r, a, b, busy / hz * 1e6 / n, 100 * busy / all, 100 * other / others, e}' - "$home/wrk"
		done
	done
done | tee "$home/rounds" | sed 's/^/  /' >&2
python3 - "$home/rounds" <<'EOT'
import statistics, sys
def us(t):
    for unit, times in (("us", 1), ("ms", 1e3), ("s", 1e6)):
        if t.endswith(unit):
            return float(t[:-len(unit)]) * times
rows, errors = {}, 0
for line in open(sys.argv[1]):
    w = line.split()
    rows.setdefault((w[0], w[1]), []).append((float(w[2]), us(w[3]), us(w[4]), float(w[5]), float(w[6]), float(w[7])))
    errors += len(w) > 8
middle = statistics.median
for method in ("GET", "POST"):
    for way in ("splice", "nginx"):
        rates, p50, p99, used, busy, others = zip(*rows[method, way])
        print("%-5s %-7s %7.0f requests/s (%.0f..%.0f)   p50 %5.0f us   p99 %6.0f us   the proxy's processor: %4.1f us a request (%.1f..%.1f), "
              "%.0f %% busy; the others': %.0f %%" % (method, way, middle(rates), min(rates), max(rates), middle(p50), middle(p99),
              middle(used), min(used), max(used), middle(busy), middle(others)))
    for what, i, over in (("requests/s, splice / nginx", 0, 0), ("processor time, nginx / splice", 3, 1)):
        ratios = [(a[i] / b[i]) if not over else (b[i] / a[i]) for a, b in zip(rows[method, "splice"], rows[method, "nginx"])]
        print("%-5s %s, round by round: %.2f (%.2f..%.2f)" % (method, what, middle(ratios), min(ratios), max(ratios)))
print("rounds with errors: %d" % errors)
EOT
