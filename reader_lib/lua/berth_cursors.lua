-- SPDX-License-Identifier: MIT
-- Scrolls and points in time in nginx: their follow-ups go to the cluster that made them, wherever the partition lives by
-- then, and to nobody but the partition that they were made for. Two ways: `pin` (libberth remembers, in memory that all
-- proxies of the instance see) and `seal` (the id that the client gets says it itself, with a MAC). Called by
-- berth_nginx.lua alone, in one worker's phases:
--
--   take     access         what a request has to do with cursors: reads its ids, tells its cluster, refuses it
--                           (berth_cursor_requests.lua)
--   go       access         it is about to be sent: one that opens a cursor, unless the daemon is in doubt
--   header   header_filter  the answer may carry an id: can it be read?
--   body     body_filter    pins or seals the id on its way, before the client can see it
--
-- A node's raw id never goes to the client before it is pinned, and a client's id never to a node before it was resolved
-- for this partition. When an id cannot be pinned any more, the answer has begun already: then the connection is cut off
-- before the id has passed, so that a client never holds an id that nobody can continue. What can be known before, is:
-- requests that make cursors are refused while the daemon is away.
local berth = require "berth"
local rules = require "berth_rules"
local json = require "berth_json"
local requests = require "berth_cursor_requests"

local ngx, lower = ngx, string.lower
local M = { count = { cursors = 0, followed = 0, cut = 0 } }

local PIN_WAIT_MS = 100 -- a worker waits so long for the daemon, once (to release: as long as attach did)
local SHY = 1           -- s, and for so long not again
local ID_MAX = 4096     -- BERTH_CURSOR_ID_MAX, BERTH_SEAL_ID_MAX

local mode, options -- of setup
local attachment    -- function: the worker's attachment, or nil
local seal, sealer  -- the module; the keys, nil while there are none
local seal_state    -- the last trouble with the key file, logged; "" for none
local shy_until = 0 -- ngx.now(): the daemon did not answer in time, or is asked by a probe just now; 0: it answers
local resolve, opening

-- ---- keys ---------------------------------------------------------------------------------------------------------

-- o: cursors, seal_keys, seal_library, cursor_ttl, cursor_body_max of berth_nginx.setup.
function M.setup(o, attachment_)
	mode, options, attachment = o.cursors, o, attachment_
	if mode == "seal" then
		if not o.seal_keys then
			error('berth_nginx.setup: cursors is "seal", and seal_keys names no key file: `berth seal keygen` makes one', 3)
		end
		seal = require "berth_seal"
	end
	requests.setup(o.cursor_body_max, resolve, opening)
	M.maintain()
end

-- Now and then: the keys may come later than we do.
function M.maintain()
	if mode ~= "seal" or sealer then
		return
	end
	local code, errno
	sealer, code, errno = seal.open(options.seal_keys, options.seal_library or nil)
	local trouble = sealer and "" or seal.strerror(code, errno)
	if trouble == seal_state then
		return
	end
	seal_state = trouble
	if sealer then
		ngx.log(ngx.NOTICE, "berth: key file ", options.seal_keys, " read: cursors are sealed from now on")
	else
		ngx.log(ngx.ERR, "berth: key file ", options.seal_keys, ": ", trouble,
			": every cursor is refused; `berth seal inspect` says what is wrong with it")
	end
end

function M.exit()
	if sealer then
		sealer:close()
		sealer = nil
	end
end

-- ---- refusals -----------------------------------------------------------------------------------------------------

local MISSING = requests.MISSING
local FOREIGN = { 403, "not-owner", "this scroll or point in time belongs to another partition", nil,
	"security_exception" }
local NO_KEY = { 503, "no-key", "the proxy has no key to seal cursors with: see its error log", 1000 }
local DOWN = { 503, "writer-down", "scrolls and points in time cannot be opened without the daemon", 1000 }

local function refusal_of(code)
	if code == berth.E_UNKNOWN then
		return MISSING
	elseif code == berth.E_NOT_OWNER then
		return FOREIGN
	end
	return { code = code }
end

-- ---- ids ----------------------------------------------------------------------------------------------------------

-- Of an id that a client sent: its cluster's number, the node's id. nil, refusal.
function resolve(id, partition)
	local b, cluster, raw = attachment(), nil, id
	if not b then -- gone while the body came
		return nil, refusal_of(berth.E_WRITER_DOWN)
	elseif mode == "seal" then
		if not sealer then
			return nil, NO_KEY
		elseif id == "" or #id > seal.ENVELOPE_MAX then
			return nil, MISSING
		end
		cluster, raw = sealer:unseal(id, partition)
		if not cluster then
			return nil, refusal_of(raw)
		end
		cluster = b:cluster_number(cluster)
		if not cluster then
			return nil, MISSING
		end
	else
		local code
		if id == "" or #id > ID_MAX then
			return nil, MISSING
		end
		cluster, code = b:cursor_resolve(id, partition)
		if not cluster then
			return nil, refusal_of(code)
		end
	end
	M.count.followed = M.count.followed + 1
	return cluster, raw
end

-- Nothing is asked of the node that could not be kept, as far as that is known.
function opening(c)
	if mode == "seal" then
		return not sealer and NO_KEY or nil
	end
	return (not c.registered or ngx.now() < shy_until) and DOWN or nil
end

-- The daemon did not answer in time, or has not for some seconds (then the library does not even wait for it): it costs
-- this worker no more time for a while, and the nodes no cursors.
local function be_shy(code)
	if code == berth.E_AGAIN or code == berth.E_WRITER_DOWN then
		ngx.update_time()
		shy_until = ngx.now() + SHY
	end
end

-- A node's id is on its way to the client: what the client gets instead, nil for the id itself. nil, why: it must not.
local function keep(c, id)
	c.kept = true
	if id == "" or #id > ID_MAX then
		return nil, "an id of " .. #id .. " bytes: 1 to " .. ID_MAX .. " can be kept"
	end
	M.count.cursors = M.count.cursors + 1
	if mode == "seal" then
		if not sealer then
			return nil, "no key"
		end
		local envelope, code = sealer:seal(c.cluster_id, c.partition, id)
		if not envelope then
			return nil, seal.strerror(code)
		end
		return envelope
	end
	local known, ttl, b = c.given and c.given[id], rules.time_ms(c.time), attachment()
	if known and not ttl then
		return nil -- its time is not extended
	elseif not b then
		return nil, "not attached"
	end
	local wait_ms = known and ngx.now() < shy_until and 0 or PIN_WAIT_MS
	local ok, code = b:cursor_pin(id, c.cluster, c.partition, ttl or options.cursor_ttl * 1000, wait_ms)
	if ok then
		shy_until = wait_ms > 0 and 0 or shy_until
		return nil
	end
	c.probe = nil -- it has found out
	be_shy(code)
	if known and (code == berth.E_AGAIN or code == berth.E_WRITER_DOWN) then
		return nil -- pinned as before
	end
	return nil, berth.strerror(code)
end

local function release(c)
	local b = attachment()
	for i = 1, #c.release do
		if not b or ngx.now() < shy_until then
			return -- they run out
		end
		local _, code = b:cursor_release(c.release[i], c.partition)
		be_shy(code)
	end
end

-- ---- phases -------------------------------------------------------------------------------------------------------

-- In access; registered: with a living daemon. nil: an ordinary request. nil, refusal. Else what is to be kept with the
-- request: `cluster` is where it has to go (nil: where the partition lives), `uri` the path that the node gets (nil: as
-- it is). The caller adds cluster and cluster_id where they are not set. May read the request's body.
function M.take(partition, method, uri, registered)
	local c = rules.cursor_of(method, uri)
	if not c then
		return nil
	end
	c.partition, c.registered = partition, registered
	return requests.take(c)
end

-- In access, last: this one goes to its node. A refusal, or nil. While it is not known whether the daemon is back, one
-- request finds out, and the others of the next second are refused.
function M.go(c)
	if mode ~= "pin" or c.kind ~= "open" or shy_until == 0 then
		return nil
	elseif ngx.now() < shy_until then -- while the body came, another one went
		return DOWN
	end
	shy_until = ngx.now() + SHY
	c.probe = shy_until
	return nil
end

-- In header_filter: an answer, or a page of nginx's own, is about to begin.
function M.header(c)
	local status = ngx.status
	local good = status >= 200 and status < 300
	c.headed = true
	if c.release and mode == "pin" and (good or status == 404) then
		release(c)
	end
	if not good or not c.key or c.closes and mode == "pin" then
		c.over = true -- no id is in there
		return
	end
	local header = ngx.header
	local encoding = header.content_encoding
	if encoding and lower(encoding) ~= "identity" or not header.content_type or not requests.is_json(header.content_type) then
		ngx.log(ngx.ERR, "berth: an answer with a cursor is ", header.content_type or "of no type", ", ",
			encoding or "not compressed", ": it has to be JSON that is not compressed")
		c.instead = '{"error":{"code":"bad-answer","message":"the node\'s answer cannot be read","status":502}}\n'
		ngx.status = 502
		header.content_encoding, header.content_type, header.content_length = nil, "application/json", #c.instead
		return
	end
	if mode == "seal" then
		header.content_length = nil -- envelopes are longer: nginx sends chunks instead
	end
	if c.closes then
		c.scan = json.new({ "pits", "*", "pit_id" }, function(id) return c.given[id] end)
	else
		c.scan = json.new({ c.key }, function(id) return keep(c, id) end)
	end
end

-- In body_filter, for each piece. True, or nil: the connection is to be cut off; nothing more goes out either way.
function M.body(c)
	local arg = ngx.arg
	c.seen = true
	if c.over then
		return true
	elseif c.instead then
		arg[1], c.instead = c.instead, ""
		return true
	end
	local out, why = nil, "header_filter_by_lua does not call berth_nginx.header_filter: see share/doc/berth/nginx.md"
	local piece, last = arg[1], arg[2]
	if c.scan then
		out, why = c.scan:feed(piece, last)
	elseif not c.headed and ngx.status >= 300 then
		c.over = true
		return true
	end
	if not out then
		if not c.cut then
			c.cut, c.scan = true, nil
			M.count.cut = M.count.cut + 1
			ngx.log(ngx.ERR, "berth: an answer was cut off, its cursor could not be kept: ", why)
		end
		arg[1] = nil
		return nil
	elseif out ~= piece then
		arg[1] = out
	end
	c.over = last or c.kept and not c.closes and c.scan.held == "" and not c.scan.inside
	return true
end

-- In log: a probe that found nothing out leaves it to the next; an answer that might have carried an id has passed nobody.
function M.check(c)
	if c.probe == shy_until then
		shy_until = ngx.now() -- still in doubt
	end
	if c.key and not c.seen and ngx.status >= 200 and ngx.status < 300 and ngx.var.request_completion == "OK" then
		ngx.log(ngx.ERR, "berth: an answer with a cursor was not looked at: is there a location with a body_filter_by_lua of ",
			"its own? See share/doc/berth/nginx.md")
	end
end

return M
