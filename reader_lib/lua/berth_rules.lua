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
	return not (READ_POSTS[api] and method == "POST")
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
