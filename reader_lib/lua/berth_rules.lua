-- SPDX-License-Identifier: MIT
-- What a proxy judges about requests and answers: which are writes, what became of them, where an endpoint is. Functions
-- of their arguments alone, called by berth_nginx.lua; nothing here knows nginx but for ngx.decode_args.
local tonumber, find, match, gmatch, sub = tonumber, string.find, string.match, string.gmatch, string.sub
local M = {}

local function decode(text)
	return (string.gsub(text, "%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- ---- requests -----------------------------------------------------------------------------------------------------

local READS = { GET = true, HEAD = true, OPTIONS = true }
-- OpenSearch's reads that come with a body.
local READ_POSTS = { _search = true, _msearch = true, _count = true, _mget = true, _field_caps = true, _validate = true,
		     _explain = true, _termvectors = true, _mtermvectors = true, _rank_eval = true, _analyze = true,
		     _search_shards = true, _render = true }
local SEARCH_REST = { scroll = true, template = true, point_in_time = true }

-- Of a path, the first segment that begins with an underscore (names of indices do not), and the segment after it.
-- nil, nil, true: nobody knows which path a node will make of it.
local function api_of(uri)
	local api, rest
	for segment in gmatch(match(uri, "^[^?#]*"), "[^/]+") do
		segment = decode(segment)
		if segment == "." or segment == ".." then
			return nil, nil, true
		elseif api then
			rest = rest or segment
		elseif sub(segment, 1, 1) == "_" and segment ~= "_all" then
			api = segment
		end
	end
	return api, rest
end

-- Whether a request changes data, judged by its method and by the path that the node gets. When in doubt: true.
function M.is_write(method, uri)
	if READS[method] then
		return false
	end
	if method ~= "POST" and method ~= "DELETE" then
		return true
	end
	local api, rest, odd = api_of(uri)
	if odd then
		return true
	elseif api == "_search" then
		return not (SEARCH_REST[rest] or rest == nil and method == "POST")
	end
	return api ~= "_pit" and not (READ_POSTS[api] and method == "POST")
end

-- Whether the node, when it accepts this, goes on with it behind its answer.
function M.is_task(uri)
	local query = match(uri, "%?(.*)")
	if not query or not (find(query, "wait_for_completion", 1, true) or find(query, "%", 1, true)) then
		return false
	end
	local value = ngx.decode_args(query, 0).wait_for_completion
	return value ~= nil and value ~= true and value ~= "true" and value ~= ""
end

-- The first segment of a raw path, decoded, and the rest of the path and query. normal: the path as nginx understands it,
-- without //, /./ and /../; nil when the two do not begin with the same.
function M.first_segment(uri, normal)
	local segment, rest = match(uri, "^/([^/?#]*)(.*)$")
	segment = segment and decode(segment)
	if not segment or sub(normal .. "/", 1, #segment + 2) ~= "/" .. segment .. "/" then
		return nil
	end
	return segment, sub(rest, 1, 1) == "/" and rest or "/" .. rest
end

-- ---- requests about cursors ---------------------------------------------------------------------------------------
-- As OpenSearch 1.x to 3.x reads them: RestController (paths), RestUtils (queries), RestSearchScrollAction,
-- RestClearScrollAction, RestCreatePitAction, RestDeletePitAction, RestSearchAction; and Elasticsearch's /_pit since 7.10.

-- Parameters of a raw query: last ones win, and a semicolon separates as an ampersand does. twice: names given twice.
local function arguments(query)
	local all, twice = ngx.decode_args((string.gsub(query, ";", "&")), 0), {}
	for name, value in pairs(all) do
		if type(value) == "table" then
			twice[name], all[name] = true, value[#value]
		end
		if all[name] == true then
			all[name] = ""
		end
	end
	return all, twice
end

-- Segments of a raw path, decoded; the number of the one that names the API; the raw path before that one.
local function segments(path)
	local list, at, before = {}, nil, ""
	for raw in gmatch(path, "[^/]+") do
		local segment = decode(raw)
		if segment == "." or segment == ".." then
			return nil
		end
		list[#list + 1] = segment
		if not at and sub(segment, 1, 1) == "_" and segment ~= "_all" then
			at = #list
		elseif not at then
			before = before .. "/" .. raw
		end
	end
	return list, at, before
end

-- What a request has to do with cursors; nil: nothing. Else a table with `kind`:
--   open       makes one; its id is the answer's top-level `key`; it lives for `time`
--   search     may continue a point in time that its body names          msearch   the same, many
--   next       continues a scroll        clear   ends scrolls            close     ends points in time
--   all        is about all cursors of the cluster, whosever they are
--   odd        nobody knows which path a node will make of it
-- and args (of the query), twice, before (the raw path before the API), ids (in the path), pit (Elasticsearch's), body (a
-- body of this kind may name a point in time).
function M.cursor_of(method, uri)
	if method ~= "GET" and method ~= "POST" and method ~= "DELETE" then
		return nil
	end
	local path, query = match(uri, "^([^?]*)%??(.*)$")
	if find(path, "#", 1, true) then
		return { kind = "odd" }
	end
	local list, at, before = segments(path)
	if not list then
		local plain = decode(path)
		return (find(plain, "search", 1, true) or find(plain, "_pit", 1, true)) and { kind = "odd" } or nil
	end
	local api, rest, more = list[at], list[at and at + 1], list[at and at + 2]
	local post, delete = method == "POST", method == "DELETE"
	if api ~= "_search" and api ~= "_msearch" and api ~= "_pit" then
		return nil
	end
	local args, twice = arguments(query)
	local c = { args = args, twice = twice, before = before }
	if api == "_msearch" then
		c.kind = not (rest or delete) and "msearch" or nil
	elseif api == "_pit" then
		c.pit, c.key, c.time = true, "id", args.keep_alive
		c.kind = not rest and (post and "open" or delete and "close") or nil
	elseif rest == "scroll" then
		c.kind, c.ids = delete and "clear" or "next", more
		if #list > at + 2 then
			c.kind = "odd"
		end
	elseif rest == "point_in_time" then
		c.key, c.time = "pit_id", args.keep_alive
		c.kind = more == "_all" and "all" or not more and (post and "open" or delete and "close") or nil
	elseif not delete and (rest == nil or rest == "template" and not more) then
		c.kind, c.key, c.body = "search", "_scroll_id", rest == nil
		if args.scroll and args.scroll ~= "" then
			c.kind, c.time = "open", args.scroll
		elseif rest then
			c.kind = nil
		end
	end
	return c.kind and c or nil
end

local UNITS = { d = 86400000, h = 3600000, m = 60000, s = 1000, ms = 1, micros = 1e-3, nanos = 1e-6 }

-- Milliseconds of a time as OpenSearch writes it, 1 at least, 24 hours at most (search.max_keep_alive and
-- point_in_time.max_keep_alive, as a cluster has them by default). nil: it is none, and the node refuses it.
function M.time_ms(text)
	local number, unit = match(text or "", "^%s*(%d+)%s*(%a+)%s*$")
	unit = unit and UNITS[string.lower(unit)]
	return unit and math.max(1, math.min(86400000, math.floor(tonumber(number) * unit))) or nil
end

-- Whether a node might read a body in another way than cjson: bytes of UTF-16 or UTF-32, characters written longer than
-- they are (which Jackson takes for the short ones).
function M.is_odd_text(text)
	return find(text, "%z") or find(text, "[\192\193]") or find(text, "\224[\128-\159]") or
		find(text, "\240[\128-\143]")
end

-- ---- answers ------------------------------------------------------------------------------------------------------

-- A status that the node gave as its last word.
local function is_final(status)
	return status and status >= 200 and status ~= 499 and (status < 502 or status > 504)
end

-- Whether a write is done, for sure. statuses, sent: nginx's $upstream_status and $upstream_bytes_sent, lists of all
-- attempts with commas and colons; nil: there was none. status: what the client gets. whole: the answer came to its end.
function M.is_done(statuses, sent, task, status, whole)
	if not statuses then
		return true -- nothing was sent
	end
	local next_sent, last = gmatch(sent or "", "[^,: ]+"), 0
	for text in gmatch(statuses, "[^,: ]+") do
		local bytes = next_sent()
		last = tonumber(text)
		if not is_final(last) then
			if bytes ~= "0" then
				return false
			end
			last = 0 -- not a byte was sent: a node that is down
		elseif last < 300 and (last == 202 or task) then
			return false
		end
	end
	-- 2xx: not cut off, nor is it nginx's own page in place of the answer
	return last < 200 or last >= 300 or whole and status == last
end

-- ---- endpoints ----------------------------------------------------------------------------------------------------

-- Of a URL: {host = literal address or false, name, port, authority, base = what $berth_url begins with}; nil, why not.
function M.endpoint(url)
	local scheme, authority, prefix = match(url, "^(https?)://([^/?#@]+)(/?[^?#]*)$")
	if not scheme then
		return nil, "is no http:// or https:// URL"
	end
	local host, port = match(authority, "^(%[[%x:.]+%]):?(%d*)$")
	if not host then
		host, port = match(authority, "^([^:]+):?(%d*)$")
	end
	port = tonumber(port ~= "" and port or scheme == "https" and 443 or 80)
	if not host or not port or port < 1 or port > 65535 then
		return nil, "has no valid host and port"
	end
	local literal = sub(host, 1, 1) == "[" or find(host, "^%d+%.%d+%.%d+%.%d+$")
	return { host = literal and host, name = host, port = port, authority = authority,
		 base = scheme .. "://berth" .. string.gsub(prefix, "/+$", "") }
end

return M
