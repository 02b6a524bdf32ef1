#!/bin/sh
# SPDX-License-Identifier: MIT
# Requests a second, median and 99th percentile of `berth bpf splice` beside the nginx of reader_lib/lua on the same
# loopback, before the same nodes, in the same run: rounds of all of them in turn, medians and ranges. Small GETs and POSTs of
# two tenants on kept-alive connections; nginx without an access log, and with a worker for each processor. And the processor
# time of a request: nginx's workers', or splice's process's and all kernel workers' (which send what the programs redirect;
# the programs themselves run in who sends or receives, and are not in it, as little as nginx's share of that).
#   bench/bpf/splice.sh [ROUNDS [SECONDS [CONNECTIONS]]]      root; wrk, nginx with its Lua module; BERTH_BUILD (build)
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "${BERTH_BUILD:-build}")
rounds=${1:-5} seconds=${2:-2} connections=${3:-32}
for need in wrk nginx python3; do
	command -v $need >/dev/null || { echo "SKIP: there is no $need"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "SKIP: packet programs need root"; exit 0; }
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf

home=$(mktemp -d /tmp/berth-bench-splice-XXXXXX)
dir=$(mktemp -d /dev/shm/berth-bench-splice-XXXXXX)
pids=
stop() {
	for pid in $pids; do kill "$pid" 2>/dev/null || true; done
	for pid in $pids; do wait "$pid" 2>/dev/null || true; done
	rm -rf "$home" "$dir" "/sys/fs/bpf/berth/$(basename "$dir")"
}
trap stop EXIT
trap 'exit 1' INT TERM

# Waits until a file has a line with this, ten seconds at most.
until_said() {
	python3 -c 'import sys, time
end = time.time() + 10
while sys.argv[2] not in open(sys.argv[1]).read():
    if time.time() > end: sys.exit(sys.argv[1] + ": no " + sys.argv[2] + ": " + open(sys.argv[1]).read())
    time.sleep(0.01)' "$1" "$2"
}
free_ports() {
	python3 -c 'import socket
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(x.getsockname()[1] for x in s))'
}
read -r c1 c2 proxy <<EOT
$(free_ports)
EOT

cat >"$home/nodes.conf" <<EOT
user root; worker_processes 1; error_log nodes.log; pid nodes.pid; daemon off;
events { worker_connections 8192; }
http {
	access_log off; keepalive_requests 1000000000;
	client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
	server { listen 127.0.0.1:$c1 backlog=4096; listen 127.0.0.1:$c2 backlog=4096;
		location / { return 200 "$(printf '%0100d' 0)"; } }
}
EOT
sed -e "s|user www-data berth;|user root; daemon off;|" -e "s|worker_processes 4|worker_processes $(nproc)|" \
	-e "s|# lua_package_path .*|lua_package_path \"$PWD/reader_lib/lua/?.lua;;\"; keepalive_requests 1000000000;|" \
	-e "s|instance = \"/dev/shm/berth/default\"|instance = \"$dir\"|" -e "s|listen 127.0.0.1:9280;|listen 127.0.0.1:$proxy backlog=4096;|" \
	-e "s|access_log access.log berth;|access_log off;|" -e "s|keepalive 64; |keepalive 1024; keepalive_requests 1000000000; |" \
	reader_lib/lua/nginx.conf >"$home/proxy.conf"

"$build/berthd" --dir "$dir" --store memory: --bpf 2>"$home/berthd.log" & pids="$! $pids"
until_said "$home/berthd.log" event=ready
berth() { "$build/berth" --dir "$dir" "$@"; }
berth cluster set c1 --endpoint "http://127.0.0.1:$c1" >/dev/null
berth cluster set c2 --endpoint "http://127.0.0.1:$c2" >/dev/null
berth set acme --mode dedicated-cluster --cluster c1 >/dev/null
berth set globex --mode dedicated-cluster --cluster c2 >/dev/null
nginx -p "$home" -c nodes.conf 2>/dev/null & pids="$! $pids"
BERTH_LIBRARY="$build/libberth.so" nginx -p "$home" -c proxy.conf 2>/dev/null & proxy_pid=$! pids="$! $pids"
"$build/berth" --dir "$dir" bpf splice --listen 127.0.0.1:0 --fallback "127.0.0.1:$proxy" >"$home/splice.log" & splice_pid=$! pids="$! $pids"
until_said "$home/splice.log" "listening on port"
splice=$(sed -n 's/listening on port //p' "$home/splice.log")

# Processor time so far of what does the work of a way, in ms.
used_ms() {
	case $1 in
	splice) { echo "$splice_pid"; sed -n 's/^Pid:\t//p' $(grep -ls '^Name:.kworker' /proc/[0-9]*/status) 2>/dev/null; } ;;
	nginx) tr ' ' '\n' <"/proc/$proxy_pid/task/$proxy_pid/children" ;;
	esac | while read -r pid; do cat "/proc/$pid/stat" 2>/dev/null || true; done |
		awk -v hz="$(getconf CLK_TCK)" '{sub(/.*\) /, ""); t += $12 + $13} END {print int(t * 1000 / hz)}'
}

for method in GET POST; do
	body=
	[ $method = GET ] || body=', string.rep("x", 200)'
	cat >"$home/$method.lua" <<EOT
local tenants, i = {"acme", "globex"}, 0
request = function()
	i = i + 1
	return wrk.format("$method", "/index/_doc/1", {["X-Partition"] = tenants[i % 2 + 1]}$body)
end
EOT
done
for round in $(seq "$rounds"); do
	for method in GET POST; do
		for way in "node $c1" "splice $splice" "nginx $proxy"; do
			before=$(used_ms "${way% *}")
			wrk -t1 -c"$connections" -d"$seconds" --latency -s "$home/$method.lua" "http://127.0.0.1:${way#* }/" >"$home/wrk"
			awk -v name="$method ${way% *}" -v used=$(($(used_ms "${way% *}") - before)) '
				$1 == "50%" {a = $2} $1 == "99%" {b = $2} /^Requests/ {r = $2} / requests in / {n = $1}
				/Socket errors|Non-2xx/ {e = e " " $0}
				END {print name, r, a, b, used * 1000 / n, e}' "$home/wrk"
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
    rows.setdefault((w[0], w[1]), []).append((float(w[2]), us(w[3]), us(w[4]), float(w[5])))
    errors += len(w) > 6
for method in ("GET", "POST"):
    for way in ("node", "splice", "nginx"):
        rates, p50, p99, used = zip(*rows[method, way])
        print("%-5s %-7s %7.0f requests/s (%.0f..%.0f)   p50 %5.0f us   p99 %6.0f us" % (method, way,
              statistics.median(rates), min(rates), max(rates), statistics.median(p50), statistics.median(p99)) +
              ("   %4.1f us of processor (%.1f..%.1f)" % (statistics.median(used), min(used), max(used)) if way != "node" else ""))
    ratios = [a[0] / b[0] for a, b in zip(rows[method, "splice"], rows[method, "nginx"])]
    print("%-5s splice / nginx, round by round: %.2f (%.2f..%.2f)" % (method, statistics.median(ratios), min(ratios), max(ratios)))
print("rounds with errors: %d" % errors)
EOT
