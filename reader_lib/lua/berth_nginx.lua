-- SPDX-License-Identifier: MIT
-- berth in nginx: each request goes to the cluster where its partition lives, and each write under a lease that ends as
-- soon as its answer is whole. nginx.conf beside this file shows where each function is called; README.md says why.
--
--   setup, exit                 init_worker_by_lua, exit_worker_by_lua: an attachment for each worker
--   access                      resolves the partition; a write takes its lease here
--   balancer                    the address for proxy_pass
--   header_filter, body_filter  the ids of scrolls and points in time in answers (berth_cursors.lua)
--   body_filter, log            the end of a write, whichever comes first
--
-- What belongs to a request is kept under the address of nginx's request, not in ngx.ctx: that survives internal
-- redirects. It is let go in `log`, which nginx calls for every request, however that ends.
local berth = require "berth"
local rules = require "berth_rules"
local balancer = require "ngx.balancer"
local ffi = require "ffi"
local get_request = require("resty.core.base").get_request

local ngx, tonumber, find, sub = ngx, tonumber, string.find, string.sub
local M = {}

-- This worker's.
local b               -- its attachment; nil while there is none
local options         -- of setup
local entries = {}    -- [address of the request] = entry
local spare, n_spare = {}, 0
local state           -- of the last berth_maintain, a code: changes of it are logged
local leaving         -- the worker shuts down: its timers do not run any more
local maintained = 0  -- when, ngx.now()
local cursors         -- berth_cursors.lua; nil: cursors are off
local count = { reads = 0, writes = 0, done = 0, unknown = 0, refused = 0, lost = 0 }

-- ---- upkeep -------------------------------------------------------------------------------------------------------

local function note_state(code)
	if code == state then
		return
	end
	state = code
	if code == 0 then
		ngx.log(ngx.NOTICE, "berth: registered with the daemon")
	else
		ngx.log(ngx.WARN, "berth: ", berth.errors[code].name, ": ", berth.strerror(code))
	end
end

local function attach(wait_ms)
	local code
	if options.cursors == "pin" and wait_ms ~= berth.NO_WAIT then
		wait_ms = math.min(wait_ms, 100) -- to release a pin waits as long
	end
	b, code = berth.attach(options.instance, { writes = "bracketed", max_leases = options.max_leases,
						   wait_ms = wait_ms, library = options.library,
						   cursors = options.cursors == "pin" and "pin" or "off" })
	if not b then
		note_state(code)
	end
end

local function maintain()
	maintained = ngx.now()
	if not b then
		attach(berth.NO_WAIT)
	end
	if b then
		local ok, code = b:maintain()
		note_state(ok and 0 or code)
		if code == berth.E_FORKED then
			b:close()
			b = nil
		end
	end
	if cursors then
		cursors.maintain()
	end
end

local function tick(premature)
	if premature then
		leaving = true
	else
		maintain()
	end
end

local DEFAULTS = { instance = "default", max_leases = 4096, interval = 0.2, tries = 1, read_body = true, wait_ms = 1000,
		   is_write = rules.is_write, hold_ms = 0, resolve = false, library = false, cursors = "off",
		   cursor_ttl = 300, cursor_body_max = 1048576, seal_keys = false, seal_library = false }

-- In init_worker_by_lua. README.md lists the options. A worker that finds no daemon, or no instance, goes on and tries
-- again; what it cannot answer meanwhile gets 503.
function M.setup(o)
	if ngx.get_phase() ~= "init_worker" then
		error("berth_nginx.setup: called in " .. ngx.get_phase() .. "; call it in init_worker_by_lua_block: an " ..
			"attachment belongs to one process", 2)
	end
	options = {}
	for name, value in pairs(o or {}) do
		if DEFAULTS[name] == nil then
			error("berth_nginx.setup: there is no option " .. tostring(name), 2)
		end
		options[name] = value
	end
	for name, value in pairs(DEFAULTS) do
		if options[name] == nil then
			options[name] = value
		end
	end
	options.library = options.library or nil
	if options.cursors == "pin" or options.cursors == "seal" then
		cursors = require "berth_cursors"
		cursors.setup(options, function() return b end)
	elseif options.cursors ~= "off" then
		error('berth_nginx.setup: cursors is "' .. tostring(options.cursors) .. '"; it may be "off", "pin" or "seal"', 2)
	end
	attach(options.wait_ms)
	maintain()
	assert(ngx.timer.every(options.interval, tick))
end

-- ---- where to -----------------------------------------------------------------------------------------------------

local endpoints = {} -- [URL] = {host, port, authority, base}; as many as there were URLs

-- Of a cluster: its endpoint, its id. nil, what is wrong.
local function target_of(cluster)
	local url, id = b:endpoint(cluster)
	if not url then
		return nil, "cluster " .. cluster .. ": " .. berth.strerror(id)
	end
	local to = endpoints[url]
	if not to then
		local why
		to, why = rules.endpoint(url)
		if not to then
			return nil, 'the endpoint "' .. url .. '" of cluster ' .. id .. " " .. why .. ": berth cluster set " .. id ..
				" --endpoint URL"
		end
		endpoints[url] = to
	end
	return to, id
end

-- Of a host name: options.resolve, which may yield.
local function address_of(to)
	if to.host then
		return to.host
	end
	local host = options.resolve and options.resolve(to.name)
	if not host then
		return nil, "the endpoint's host " .. to.name ..
			" is a name: use an address, or give setup a function `resolve`"
	end
	return find(host, ":", 1, true) and sub(host, 1, 1) ~= "[" and "[" .. host .. "]" or host
end

-- ---- one request --------------------------------------------------------------------------------------------------

local function key()
	return tonumber(ffi.cast("uintptr_t", get_request()))
end

local function new_entry(k)
	local e
	if n_spare > 0 then
		e = spare[n_spare]
		spare[n_spare] = nil
		n_spare = n_spare - 1
	else
		e = { w = berth.new_write() }
	end
	e.open, e.tried, e.host, e.cursor = false, false, nil, nil
	entries[k] = e
	return e
end

local RETRY_MS = { [berth.E_CUTOVER] = 50, [berth.E_STALE] = 0, [berth.E_AGAIN] = 50 }

-- kind: the type of OpenSearch's own error, whose form the answer then has.
local function refuse(http, name, text, retry_ms, kind)
	count.refused = count.refused + 1
	ngx.req.discard_body()
	ngx.status = http
	ngx.header["Content-Type"] = "application/json"
	if retry_ms then
		ngx.header["Retry-After"] = 1
		ngx.header["X-Berth-Retry-Ms"] = retry_ms
	end
	text = string.gsub(text, '[%c"\\]', " ")
	local body = '{"error":{"code":"' .. name .. '","message":"' .. text .. '","status":' .. http ..
		(retry_ms and ',"retry_ms":' .. retry_ms or "") .. "}}\n"
	if kind then
		local cause = '"type":"' .. kind .. '","reason":"' .. text .. '"'
		body = '{"error":{"root_cause":[{' .. cause .. "}]," .. cause .. ',"code":"' .. name .. '"},"status":' .. http .. "}\n"
	end
	ngx.header["Content-Length"] = #body
	ngx.print(body)
	return ngx.exit(http)
end

local function refuse_code(code, partition)
	local row = berth.errors[code]
	local name = string.gsub(string.lower(sub(row.name, 9)), "_", "-")
	if row.http == 409 then -- for the client's next try
		local at = b:route(partition)
		if at then
			ngx.var.berth_epoch = berth.epoch_text(at.epoch)
		end
	elseif row.http == 500 then
		ngx.log(ngx.ERR, "berth: ", row.name, ": ", berth.strerror(code))
	end
	return refuse(row.http, name, berth.strerror(code), (row.http == 409 or row.http == 503) and (RETRY_MS[code] or 1000))
end

-- Exactly once for each lease: whoever calls it has seen e.open.
local function end_write(e, outcome)
	e.open = false
	local field = outcome == berth.DONE and "done" or "unknown"
	count[field] = count[field] + 1
	local ok, code = b:write_end(e.w, outcome)
	if not ok then
		ngx.log(ngx.ERR, "berth: ending a write: ", berth.strerror(code))
	end
end

-- whole: the answer, if it has a body, came to its end.
local function settle(e, whole)
	local var = ngx.var
	local ok, done = pcall(rules.is_done, var.upstream_status, var.upstream_bytes_sent, e.task, ngx.status, whole)
	end_write(e, ok and done and berth.DONE or berth.UNKNOWN)
end

-- A request that was here before: redirected inside nginx. What it began is over, and judged by its attempts.
local function again(e)
	if e.open and ngx.req.is_internal() then
		settle(e, false)
	elseif e.open then -- another request at the same address: its `log` was not called
		count.lost = count.lost + 1
		ngx.log(ngx.ERR, "berth: a request ended without log_by_lua, its write counts as unknown: is there a location ",
			"with a log_by_lua of its own? See share/doc/berth/nginx.md")
		end_write(e, berth.UNKNOWN)
	end
	e.tried, e.host, e.cursor = false, nil, nil
end

-- The first segment of the path, decoded, for access. strip: the node gets the path without it.
function M.first_segment(strip)
	local uri = ngx.var.request_uri
	local partition, rest = rules.first_segment(uri, ngx.var.uri)
	return partition, strip and rest or uri
end

local HOLD = 0.002 -- s between two looks at a cutover

-- May yield: a cutover is waited for, hold_ms at most each time.
local function begin(e, partition, uri)
	local at, code = b:route(partition)
	local deadline = ngx.now() + options.hold_ms / 1000
	while at and at.phase == berth.CUTOVER and ngx.now() < deadline do
		ngx.sleep(HOLD)
		at, code = b:route(partition)
	end
	if not at or at.phase == berth.CUTOVER then -- refused before its body is read
		return nil, code or berth.E_CUTOVER
	end
	local epoch, text = nil, ngx.var.http_x_berth_epoch
	if text then
		epoch = berth.epoch_of_text(text)
		if not epoch then
			return nil, nil
		end
	end
	if options.read_body then
		ngx.req.read_body() -- a slow client holds no lease
	end
	local ok
	ok, code = b:write_begin(e.w, partition, epoch)
	if code == berth.E_WRITER_DOWN and ngx.now() - maintained > 0.05 then
		maintain()
		if b then
			ok, code = b:write_begin(e.w, partition, epoch)
		end
	end
	deadline = ngx.now() + options.hold_ms / 1000
	while code == berth.E_CUTOVER and ngx.now() < deadline do
		ngx.sleep(HOLD)
		ok, code = b:write_begin(e.w, partition, epoch)
	end
	if not ok then
		return nil, code
	end
	e.open, e.task = true, rules.is_task(uri)
	count.writes = count.writes + 1
	return e.w
end

-- In access_by_lua. partition: of this request; nil or "": 400. uri: path and query for the node, raw; nil: the client's.
-- Returns when the request may be proxied to $berth_url; else it has been answered.
function M.access(partition, uri)
	local k = key()
	local e = entries[k]
	if e then
		again(e)
	end
	if not b then
		return refuse(503, "not-attached", state and berth.strerror(state) or 
			"berth_nginx.setup did not run, or failed: see the error log", 1000)
	end
	if not partition or partition == "" then
		return refuse(400, "no-partition", "the request names no partition")
	elseif #partition > 255 or find(partition, "%c") then
		return refuse(400, "bad-partition", "a partition has 1..255 bytes and no control characters")
	end
	uri = uri or ngx.var.request_uri
	if sub(uri, 1, 1) ~= "/" then
		return refuse(400, "bad-path", "the path does not begin with a slash")
	end
	local at, code, cursor, refusal
	if cursors then
		cursor, refusal = cursors.take(partition, ngx.req.get_method(), uri, state == 0)
		if refusal and refusal.code then
			return refuse_code(refusal.code, partition)
		elseif refusal then
			return refuse(unpack(refusal, 1, 5))
		end
		uri = cursor and cursor.uri or uri
	end
	if cursor and cursor.cluster then -- wherever the partition lives by now
		at = cursor
		count.reads = count.reads + 1
	elseif not cursor and options.is_write(ngx.req.get_method(), uri) then
		e = e or new_entry(k)
		at, code = begin(e, partition, uri)
		if not at and not code then
			return refuse(400, "bad-epoch", "X-Berth-Epoch is a decimal number from 1")
		end
	else
		at, code = b:route(partition)
		count.reads = count.reads + 1
	end
	if not at then
		return refuse_code(code, partition)
	end
	local cluster = at.cluster -- a look-up's answer is the next one's too
	local epoch, to, id = at.epoch and berth.epoch_text(at.epoch) or "", target_of(cluster)
	local host, why
	if to then
		host, why = address_of(to)
	end
	if not host then
		if e and e.open then
			end_write(e, berth.DONE) -- nothing was sent
		end
		ngx.log(ngx.ERR, "berth: ", why or id)
		return refuse(503, "no-endpoint", "the cluster of this partition has no address that can be used", 1000)
	end
	if cursor then
		cursor.cluster, cursor.cluster_id = cluster, id
		refusal = cursors.go(cursor)
		if refusal then
			return refuse(unpack(refusal, 1, 5))
		end
	end
	e = e or new_entry(k)
	local var, url = ngx.var, to.base .. uri
	e.host, e.port, e.url, e.cursor = host, to.port, url, cursor
	var.berth_url, var.berth_host, var.berth_epoch, var.berth_cluster = url, to.authority, epoch, id
end

-- In balancer_by_lua of the upstream `berth`. One that did not come through `access` (a subrequest) is not sent.
function M.balancer()
	local e = entries[key()]
	if not e or not e.host or not e.tried and ngx.var.berth_url ~= e.url then
		ngx.log(ngx.ERR, "berth: a request for the upstream `berth` did not pass berth_nginx.access")
		return ngx.exit(500)
	end
	e.tried = (e.tried or 0) + 1
	if e.tried > options.tries then -- nginx does not count what fails on a kept connection
		return ngx.exit(-3) -- NGX_BUSY: 502
	elseif e.tried == 1 and options.tries > 1 then
		balancer.set_more_tries(options.tries - 1)
	end
	local ok, why = balancer.set_current_peer(e.host, e.port)
	if not ok then
		ngx.log(ngx.ERR, "berth: ", e.host, ":", e.port, ": ", why)
		return ngx.exit(500)
	end
end

-- In header_filter_by_lua.
function M.header_filter()
	local e = cursors and entries[key()]
	if e and e.cursor then
		cursors.header(e.cursor)
	end
end

-- In body_filter_by_lua, which has to return what this does: ngx.ERROR cuts the connection off.
function M.body_filter()
	local last = ngx.arg[2]
	if not cursors and not last then
		return nil
	end
	local e = entries[key()]
	if e and e.open and last then -- the answer is whole
		settle(e, true)
	elseif e and e.cursor and not cursors.body(e.cursor) then
		return ngx.ERROR
	end
end

-- In log_by_lua: the request is over, whatever became of it.
function M.log()
	local k = key()
	local e = entries[k]
	if e then
		entries[k] = nil
		if e.cursor then
			cursors.check(e.cursor)
			e.cursor = nil
		end
		if e.open then -- an answer without a body ends here
			settle(e, ngx.status == 204 or ngx.status == 304 or ngx.req.get_method() == "HEAD")
		end
		n_spare = n_spare + 1
		spare[n_spare] = e
	end
	if leaving and ngx.now() - maintained > 0.5 then
		maintain()
	end
end

-- In exit_worker_by_lua. Writes that are still open were cut off by the end of the process.
function M.exit()
	if b then
		for _, e in pairs(entries) do
			if e.open then
				end_write(e, berth.UNKNOWN)
			end
		end
		b:close()
		b = nil
	end
	if cursors then
		cursors.exit()
	end
end

-- Counters of the worker that answers, as JSON: for a location of the operator's.
function M.status()
	local open = 0
	for _, e in pairs(entries) do
		open = open + (e.open and 1 or 0)
	end
	ngx.header["Content-Type"] = "application/json"
	ngx.print('{"pid":', ngx.worker.pid(), ',"attached":', tostring(b ~= nil), ',"daemon":', tostring(state == 0),
		',"open":', open)
	for _, name in ipairs { "reads", "writes", "done", "unknown", "refused", "lost" } do
		ngx.print(',"', name, '":', count[name])
	end
	for _, name in ipairs(cursors and { "cursors", "followed", "cut" } or {}) do
		ngx.print(',"', name, '":', cursors.count[name])
	end
	ngx.print("}\n")
end

return M
