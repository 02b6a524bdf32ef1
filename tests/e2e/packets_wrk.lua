-- SPDX-License-Identifier: MIT
-- What wrk sends in the end-to-end runs, and what it remembers (packets_wrk.c has started it). A thread of wrk has one
-- connection and one partition, so that an answer belongs to the request before it. Each thread writes a file, a line for a
-- request before it is sent and one for its answer:
--     c partition sequence attempt nanoseconds        sequence 0: a read
--     a status cluster nanoseconds
-- Arguments: where the files are, the first partition, the clients' number in the clusters' logs. A file `stop` there ends
-- the requests.
local ffi = require "ffi"

local PAUSE_MS, FOREVER_MS, MONOTONIC = 2, 600000, 1

ffi.cdef [[
struct e2e_timespec { long sec; long nsec; };
int clock_gettime(int clock, struct e2e_timespec *at);
int access(const char *path, int mode);
]]
local at = ffi.new("struct e2e_timespec")

local function now()
	ffi.C.clock_gettime(MONOTONIC, at)
	return string.format("%d%09d", tonumber(at.sec), tonumber(at.nsec))
end

-- In the main thread, for each thread.
local n_threads = 0
function setup(thread)
	thread:set("number", n_threads)
	n_threads = n_threads + 1
end

local out, stop, partition, client
local sequence, attempt = 0, 1
local asked, verified = 0, false

function init(args)
	out = assert(io.open(args[1] .. "/wrk-" .. number, "w"))
	out:setvbuf("line")
	stop = args[1] .. "/stop"
	partition = tonumber(args[2]) + number
	client = args[3]
end

-- A write, a read, a write; a write that was refused again.
local function next_request()
	asked = asked + 1
	local writes = asked % 3 ~= 0 or attempt > 1
	if writes and attempt == 1 then
		sequence = sequence + 1
	end
	return writes
end

function request()
	local writes
	if number == 0 and not verified then -- wrk calls once ahead, to see what comes, and sends nothing
		verified = true
		return wrk.format("GET", "/")
	end
	writes = next_request()
	out:write("c ", partition, " ", writes and sequence or 0, " ", attempt, " ", now(), "\n")
	local headers = { ["X-Partition"] = string.format("tenant-%03d", partition) }
	if not writes then
		return wrk.format("GET", "/doc", headers)
	end
	headers["X-Number"] = partition
	headers["X-Sequence"] = sequence
	headers["X-Attempt"] = attempt
	headers["X-Client"] = client
	headers["X-Behave"] = "ok:0:0"
	return wrk.format("PUT", "/doc", headers, "{}")
end

function response(status, headers)
	out:write("a ", status, " ", headers["X-Cluster"] or 0, " ", now(), "\n")
	attempt = status == 409 and attempt + 1 or 1
end

function delay()
	return ffi.C.access(stop, 0) == 0 and attempt == 1 and FOREVER_MS or PAUSE_MS
end
