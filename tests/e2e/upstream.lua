-- SPDX-License-Identifier: MIT
-- What a cluster of the end-to-end runs does with a request. A read tells the cluster's name. A write takes effect at one
-- moment, by one line that is appended to the cluster's log with one write(2):
--     partition sequence attempt epoch client nanoseconds
-- The client says in X-Behave how this write is to go: words with a comma between them, one for each time that the
-- proxy sends it (the last one counts for all further times). A word is a verb and up to two times in ms:
--     ok:E:A       takes effect after E, is answered after A (A >= E)
--     before:A     the connection is dropped after A, nothing took effect
--     after:E:A    takes effect after E, the connection is dropped after A
--     late:A:E     the connection is dropped after A, it takes effect E after that
--     cut:E:A      takes effect after E, the connection is dropped after A in the middle of the answer
--     busy:A       503 after A, nothing took effect
-- A scroll or a point in time is known to the cluster that opened it alone (404 elsewhere), and tells whose data it shows:
-- that of the tenant that opened it. X-Behave `new`: the answer has a new id, and the old one is forgotten.
-- Runs in upstream.conf, one process. Must not yield between the clock and the write of a line.
local ffi = require "ffi"

local OVERDUE = 0.2 -- s: a machine too busy to be so late at most drops a late effect, rather than break the promise

ffi.cdef [[
struct e2e_timespec { long sec; long nsec; };
int clock_gettime(int clock, struct e2e_timespec *at);
int open(const char *path, int flags, ...);
long write(int fd, const void *bytes, size_t n);
]]

local C = ffi.C
local MONOTONIC, WRONLY_CREAT_APPEND_CLOEXEC = 1, 1 + 64 + 1024 + 524288
local at = ffi.new("struct e2e_timespec")
local logs, times = {}, {}

local function open_log(path)
	local fd = C.open(path, WRONLY_CREAT_APPEND_CLOEXEC, ffi.cast("int", 420))
	if fd < 0 then
		error("cannot open " .. path .. ": errno " .. ffi.errno())
	end
	logs[path] = fd
	return fd
end

local function now()
	C.clock_gettime(MONOTONIC, at)
	return string.format("%d%09d", tonumber(at.sec), tonumber(at.nsec))
end

-- The moment.
local function effect(fd, line)
	line = line .. now() .. "\n"
	if C.write(fd, line, #line) ~= #line then
		ngx.log(ngx.ERR, "a line of the log was not written: errno ", ffi.errno())
	end
end

local function sleep(ms)
	if ms > 0 then
		ngx.sleep(ms / 1000)
	end
end

local function answer(cluster, status)
	ngx.status = status
	ngx.header["X-Cluster"] = cluster
	ngx.header["Content-Length"] = 3
	ngx.print("c" .. cluster .. "\n")
end

local function drop()
	return ngx.exit(444)
end

local verbs = {}

function verbs.ok(w, a, b)
	sleep(a)
	effect(w.fd, w.line)
	sleep(b - a)
	answer(w.cluster, 200)
end

function verbs.before(_, a)
	sleep(a)
	return drop()
end

function verbs.after(w, a, b)
	sleep(a)
	effect(w.fd, w.line)
	sleep(b - a)
	return drop()
end

function verbs.late(w, a, b)
	local fd, line = w.fd, w.line
	sleep(a)
	ngx.update_time()
	local latest = ngx.now() + b / 1000 + OVERDUE
	assert(ngx.timer.at(b / 1000, function(premature)
		ngx.update_time()
		if not premature and ngx.now() < latest then
			effect(fd, line)
		end
	end))
	return drop()
end

function verbs.cut(w, a, b)
	sleep(a)
	effect(w.fd, w.line)
	ngx.header["X-Cluster"] = w.cluster
	ngx.header["Content-Length"] = 1000
	ngx.print("c" .. w.cluster)
	ngx.flush(true)
	sleep(b - a)
	return ngx.exit(ngx.ERROR)
end

function verbs.busy(w, a)
	sleep(a)
	answer(w.cluster, 503)
end

-- Which time is this that the proxy sends this attempt? Told by its place in the list of words.
local function word_of(behave, id)
	if not behave:find(",", 1, true) then
		return behave
	end
	local nth, last, i = (times[id] or 0) + 1, nil, 0
	times[id] = nth
	for word in behave:gmatch("[^,]+") do
		i, last = i + 1, word
		if i == nth then
			break
		end
	end
	return last
end

local function write_request(cluster, fd, h)
	local id = table.concat({ h["X-Number"], h["X-Sequence"], h["X-Attempt"] }, " ")
	local verb, a, b = word_of(h["X-Behave"] or "ok:0:0", id):match("^(%l+):(%d+):?(%d*)$")

	ngx.req.read_body()
	return verbs[verb]({
		cluster = cluster,
		fd = fd,
		line = table.concat({ id, h["X-Berth-Epoch"] or "0", h["X-Client"], "" }, " "),
	}, tonumber(a), tonumber(b) or 0)
end

-- ---- scrolls and points in time ----

local contexts, made = {}, 0 -- [id] = {cluster, tenant}

local function show(cluster, key, id)
	local context = contexts[id]
	ngx.header["X-Cluster"] = context and cluster
	ngx.header["Content-Type"] = "application/json"
	ngx.status = context and 200 or 404
	local text = context and '{"hits":{"_scroll_id":1},"' .. key .. '":"' .. id .. '","of":"' .. context.tenant .. '"}\n' or
		'{"error":{"type":"search_context_missing_exception"},"status":404}\n'
	ngx.header["Content-Length"] = #text
	ngx.print(text)
end

local function cursor(cluster, h)
	ngx.req.read_body()
	local body, method, uri = ngx.req.get_body_data() or "", ngx.req.get_method(), ngx.var.uri
	local id, key = body:match('"scroll_id":%[?"([^"]+)"'), "_scroll_id"
	if not id then
		id = body:match('"pit_id":%[?"([^"]+)"') or body:match('"pit":{"id":"([^"]+)"')
		key = (id or uri:find("point_in_time", 1, true)) and "pit_id" or key
	end
	local context = contexts[id]
	if not id or context and context.cluster == cluster and h["X-Behave"] == "new" then
		if id then
			contexts[id] = nil
		end
		made = made + 1
		id = "c" .. cluster .. "." .. made .. "." .. math.random(2 ^ 30)
		contexts[id] = context or { cluster = cluster, tenant = h["X-Partition"] }
	elseif context and context.cluster ~= cluster then
		return show(cluster, key, "")
	end
	show(cluster, key, id)
	if method == "DELETE" then
		contexts[id] = nil
	end
end

local function serve(cluster, log)
	local fd, h = logs[log] or open_log(log), ngx.req.get_headers()

	if ngx.var.uri:find("/_search", 1, true) then
		return cursor(cluster, h)
	end
	if ngx.req.get_method() == "PUT" then
		return write_request(cluster, fd, h)
	end
	sleep(tonumber(h["X-Behave"]) or 0)
	answer(cluster, 200)
end

return { serve = serve }
