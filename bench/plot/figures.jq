# SPDX-License-Identifier: MIT
# The points of one plot ($plot) from the lines that `bench --json` and `peers --json` print: a row each of style, series,
# x, y, in the order of the legend. Called by plots, with all lines in one array. What was measured more than once counts as
# it was last. The last row: `about`, the machine and the commit.

def figures($workload; $unit): map(select(.workload == $workload and .unit == $unit and .median));
def partitions: .parameters.partitions;
def with_commas: tostring | if length > 3 then (.[:-3] | with_commas) + "," + .[-3:] else . end;
def number: tostring | sub(",$"; "") | tonumber;

# Points of the same series and x: the last.
def last_only: group_by([.series, .x]) | map(max_by(.at));
# The series whose end is highest first, as the lines lie above each other.
def highest_first: group_by(.series) | sort_by(max_by(.x) | -.y) | map(sort_by(.x)) | add;
def as_given: group_by(.series) | sort_by(map(.at) | min) | map(sort_by(.x)) | add;

# Styles, by number: style.gp. One hue for what is one kind of thing; 0: the next that is free.
def peer_style:
  if test("^berth_route$") then 1 elif test("^berth") then 2
  elif test("^private") then 3 elif test("^rwlock, ") then 5 elif test("^rwlock") then 4
  elif test("^ck") then 6 elif test("lfht.*qsbr") then 7 elif test("lfht") then 8
  elif test("^rte.*bulk") then 10 elif test("^rte") then 9 elif test("^LMDB") then 11 elif test("^BPF") then 12
  elif test("^Redis, ") then 14 elif test("^Redis") then 13 elif test("^etcd") then 15 else 16 end;

def peers: figures("peers"; "ns")
  | map({at, style: (.name | peer_style), series: .name, x: partitions, y: .median, from: .}) | last_only | highest_first;

def calls: figures("lookup"; "ns") | map(select(.name | test("berth")))
  | map({at, style: 0, series: (.name | sub("^begin, (?<c>.*), end$"; "\(.c), in a section of its own")),
         x: partitions, y: .median, from: .})
  | last_only | highest_first;

# p50 at 0.3, p90 at 1, p99 at 2, ...: by the share that is above it. The greatest stands at the end.
def percentile_x: {"p50": 0.3, "p90": 1, "p99": 2, "p99.9": 3, "p99.99": 4, "max": 5};
def tail: map(select(.workload == "tail" and .percentiles and .unit == "ns"))
  | map(. as $line | (.name + (if partitions then ", \(partitions | with_commas) partitions" else "" end)) as $series
        | .percentiles | to_entries[]
        | {at: $line.at,
           style: ((if $line.name | test("^two time stamps") then 17 else 1 end)
                   + (if ($line | partitions) > 1000 then 1 else 0 end)),
           series: $series, x: percentile_x[.key], y: .value, from: $line})
  | map(select(.y > 0)) | last_only | highest_first;

def blackout:
  [figures("blackout"; "ms")[] | select(.name == "blackout") | . + {what: "blackout", factor: 1}],
  [figures("blackout"; "us")[] | select(.name == "own part of berth") | . + {what: "own part", factor: 0.001}]
  | map(. as $line | {"p50": .median, "p99": .p99} | to_entries[]
        | {at: $line.at, series: "\($line.what), \(.key), \($line.parameters.store)",
           style: (19 + (if $line.parameters.store == "sqlite" then 4 else 0 end)
                   + (if $line.factor == 1 then 0 else 2 end) + (if .key == "p99" then 1 else 0 end)),
           x: ($line.parameters.write_ms | number), y: (.value * $line.factor), from: $line});

def processes: figures("processes"; "M/s") | map(select(.parameters.processes))
  | map({at, style: 0, series: "\(.parameters.processes) process\(if .parameters.processes > 1 then "es" else "" end)",
         x: partitions, y: .median, from: .}) | last_only | as_given;

def changing: figures("processes"; "ns") | map(select(.parameters.rate != null))
  | map({at, style: 0, series: "\(partitions | with_commas) partitions", x: .parameters.rate, y: .median, from: .})
  | last_only | as_given;

def changes: figures("batch"; "/s")
  | map({at, style: 0, series: (.name | sub("^changes, "; "")), x: partitions, y: .median, from: .}) | last_only | as_given;

# Each quantity against its own median in the second quarter, the medians of fortieths of the run.
def middle: sort | .[length / 2 | floor];
def soak: map(select(.workload == "soak")) | (map(select(.seconds)) | last) as $about
  | map(select(.t)) as $samples
  | ["daemon_private_kb", "berthd, private memory", 31], ["daemon_shared_kb", "berthd, shared memory", 32],
    ["daemon_descriptors", "berthd, descriptors", 33], ["reader_private_kb", "a process, private memory", 34],
    ["reader_descriptors", "a process, descriptors", 35], ["instance_kb", "files of the instance", 36],
    ["registrations", "registrations", 37], ["pins", "pins", 38]
  | . as [$name, $text, $style]
  | ([$samples[] | select(.t >= $about.seconds / 4 and .t < $about.seconds / 2) | .[$name]] | middle) as $usual
  | ($samples | group_by(.t * 40 / $about.seconds | floor)[])
  | {at: 0, style: $style, x: (.[0].t / 60), y: ((map(.[$name]) | middle) / ([$usual, 1] | max)), from: $about,
     series: "\($text) (\(if $name | test("_kb") then "\($usual / 1024 * 10 | round / 10) MB" else $usual end))"};

[to_entries[] | .value + {at: .key}]
| if $plot == "peers" then peers elif $plot == "calls" then calls elif $plot == "tail" then tail
  elif $plot == "blackout" then ([blackout] | add // [] | last_only | highest_first)
  elif $plot == "processes" then processes elif $plot == "changing" then changing
  elif $plot == "changes" then changes elif $plot == "soak" then [soak] else error("no plot \($plot)") end
| . // []
| (.[] | [.style, .series, .x, .y] | @tsv),
  (if length > 0 then max_by(.at).from | ["about", "\(.machine); \(.kernel); commit \(.commit)"] | @tsv else empty end)
