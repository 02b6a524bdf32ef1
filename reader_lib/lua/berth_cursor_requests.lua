-- SPDX-License-Identifier: MIT
-- Requests that open, continue or end scrolls and points in time: which ids they name, and what the node is sent. Called
-- by berth_cursors.lua in nginx's access phase; may read the request's body and put another in its place.
--
-- A request goes on only when node and proxy are sure to read it alike. Bodies of follow-ups of scrolls, and of those that
-- end something, are written anew; of a search nothing but the id of its point in time is replaced.
local rules = require "berth_rules"
local json = require "berth_json"
local cjson = require "cjson"

local ngx, find, lower, gmatch = ngx, string.find, string.lower, string.gmatch
local M = {}

local body_max, resolve, opening -- of setup

-- max: bytes of a body that is looked at. resolve_(id, partition): cluster's number, the node's id; nil, refusal.
-- opening_(c): a refusal when cursors cannot be opened now.
function M.setup(max, resolve_, opening_)
	body_max, resolve, opening = max, resolve_, opening_
end

-- Refusals: {http, name, text, retry_ms, type}, what berth_nginx answers. With a type: in the form of OpenSearch's errors.

M.MISSING = { 404, "unknown-cursor", "No search context found: this scroll or point in time is not known, or not any more",
	nil, "search_context_missing_exception" }

local function bad(name, text)
	return { 400, name, text }
end

function M.is_json(content_type)
	return not content_type or content_type == "" or find(lower(content_type), "json", 1, true)
end

-- ---- bodies of requests -------------------------------------------------------------------------------------------

-- The body as text, "" for none. nil, refusal.
local function body_of_request()
	local max, var = body_max, ngx.var
	local too_long = { 413, "body-too-long", "a body that may name a scroll or point in time has at most " .. max ..
		" bytes here" }
	if (tonumber(var.http_content_length) or 0) > max then
		return nil, too_long
	end
	ngx.req.read_body()
	local text, path = ngx.req.get_body_data(), ngx.req.get_body_file()
	if not text and path then
		local file, why = io.open(path, "rb")
		if not file then
			ngx.log(ngx.ERR, "berth: ", why)
			return nil, { 500, "body", "the body cannot be read" }
		end
		text = file:read(max + 1)
		file:close()
	end
	text = text or ""
	if #text > max then
		return nil, too_long
	elseif text == "" then
		return text
	end
	local encoding = var.http_content_encoding
	if encoding and encoding ~= "" and lower(encoding) ~= "identity" then
		return nil, { 415, "body-encoded", "a body that may name a scroll or point in time must not be compressed" }
	elseif not M.is_json(var.http_content_type) then
		return nil, { 415, "body-type", "a body that may name a scroll or point in time has to be application/json" }
	end
	return text
end

-- May there be a key "pit" in this JSON, or in what a lenient parser takes for JSON? Most searches are not looked at any
-- closer.
local function may_name_pit(text)
	return find(text, "%f[%w]pit%f[%W]") or find(text, "\\u", 1, true) or rules.is_odd_text(text)
end

-- The object that a text is. nil, refusal.
local function object_of(text)
	local ok, object = pcall(cjson.decode, text)
	if rules.is_odd_text(text) or not ok or type(object) ~= "table" then
		return nil, bad("bad-json", "the body is no JSON object in UTF-8 without comments")
	end
	return object
end

-- Does one of these objects, one or a line each, have a key "pit"? nil, refusal.
local function names_pit(text, lines)
	if not may_name_pit(text) then
		return false
	end
	for part in gmatch(text, lines and "[^\r\n]+" or ".+") do
		local object, refusal = object_of(part)
		if not object then
			return nil, refusal
		elseif object.pit ~= nil then
			return true
		end
	end
	return false
end

-- A body in the query must not name a cursor.
local function check_source(c)
	local source = c.args.source
	if not source then
		return true
	elseif not M.is_json(c.args.source_content_type) then
		return nil, { 415, "body-type", "source_content_type has to be application/json" }
	elseif c.kind ~= "search" and c.kind ~= "open" and c.kind ~= "msearch" then
		return nil, bad("bad-cursor", "a scroll or point in time is named by the body, not by `source`")
	end
	local named, refusal = names_pit(source, c.kind == "msearch")
	if named == nil then
		return nil, refusal
	elseif named then
		return nil, bad("bad-cursor", "a point in time is named by the body, not by `source`")
	end
	return true
end

local function send_body(object)
	ngx.req.set_body_data(cjson.encode(object))
	ngx.req.set_header("Content-Type", "application/json")
	ngx.req.clear_header("Content-Encoding")
end

-- The answer has to be JSON that can be read. nil, refusal.
local function ask_for_json(c)
	local format = c.args.format
	if format and lower(format) ~= "json" then
		return nil, bad("bad-format", "the answer of a scroll or point in time is to be JSON: leave `format` out")
	end
	ngx.req.clear_header("Accept-Encoding")
	local accept = ngx.var.http_accept
	if accept and not find(accept, "json", 1, true) then
		ngx.req.set_header("Accept", "application/json")
	end
	return c
end

-- ---- requests, by their kind --------------------------------------------------------------------------------------

-- Of each kind: c, filled; nil: an ordinary request; nil, refusal.
local take = {}

function take.odd()
	return nil, bad("bad-path", "nobody knows which path a node will make of this one")
end

function take.all()
	return nil, { 403, "all-cursors", "not all scrolls or points in time of a cluster are yours: name them",
		nil, "security_exception" }
end

-- Reads the body of a search, and puts the node's id into it. The point in time, or false when there is none.
local function search_body(c)
	local text, refusal = body_of_request()
	if not text then
		return nil, refusal
	elseif text == "" or not may_name_pit(text) then
		return false
	end
	local object, pit
	object, refusal = object_of(text)
	if not object then
		return nil, refusal
	end
	pit = object.pit
	if pit == nil then
		return false
	elseif type(pit) ~= "table" or type(pit.id) ~= "string" then
		return nil, bad("bad-cursor", "`pit` has to be an object with a text `id`")
	end
	local cluster, raw = resolve(pit.id, c.partition)
	if not cluster then
		return nil, raw
	end
	local scan = json.new({ "pit", "id" }, function() return raw ~= pit.id and raw or nil end)
	local new, why = scan:feed(text, true)
	if not new or scan.hits[1] ~= 1 or scan.hits[2] ~= 1 then
		return nil, bad("bad-cursor", why or "`pit`, or its `id`, is there twice")
	elseif new ~= text then
		ngx.req.set_body_data(new)
	end
	c.cluster, c.given, c.key = cluster, { [raw] = pit.id }, "pit_id"
	c.time = type(pit.keep_alive) == "string" and pit.keep_alive or nil
	return c
end

function take.search(c)
	local found, refusal = search_body(c)
	if not found then
		return nil, refusal
	end
	return ask_for_json(c)
end

function take.msearch()
	local text, refusal = body_of_request()
	local named
	if text then
		named, refusal = names_pit(text, true)
	end
	return nil, named and bad("bad-cursor", "a point in time cannot be searched by _msearch here: use _search") or refusal
end

function take.open(c)
	local refused = opening(c)
	if refused then
		return nil, refused
	end
	if c.body then
		local found, refusal = search_body(c)
		if refusal then
			return nil, refusal
		elseif found then
			return nil, bad("bad-cursor", "a point in time cannot be scrolled")
		end
	end
	return ask_for_json(c)
end

-- The ids of a follow-up: of the path and the query, where commas are between them, and of the body's field, a text or a
-- list of them. nil, refusal. Also the body's object.
local function ids_of(c, field, known)
	local text, refusal = body_of_request()
	if not text then
		return nil, refusal
	end
	local object, ids = {}, {}
	if text ~= "" then
		object, refusal = object_of(text)
		if not object then
			return nil, refusal
		end
		local scan = json.new({ field }, function() end)
		if not scan:feed(text, true) or (scan.hits[1] or 0) > 1 then
			return nil, bad("bad-cursor", "`" .. field .. "` is there twice")
		end
	end
	for name in pairs(object) do
		if not known[name] then
			return nil, bad("bad-cursor", "the body has a field that does not belong there, beside `" .. field .. "`")
		end
	end
	local from_path = c.ids or c.args[field]
	if c.twice[field] or (c.ids and c.args[field]) or (from_path and object[field] ~= nil) then
		return nil, bad("bad-cursor", "`" .. field .. "` is there twice")
	end
	for id in gmatch(from_path or "", "[^,]+") do
		ids[#ids + 1] = id
	end
	local field_value = object[field]
	if type(field_value) == "string" then
		ids[1] = field_value
	elseif type(field_value) == "table" then
		for i = 1, #field_value do
			ids[i] = field_value[i]
		end
	end
	for i = 1, #ids do
		if type(ids[i]) ~= "string" then
			return nil, bad("bad-cursor", "an id is a text")
		elseif ids[i] == "_all" then
			return take.all()
		end
	end
	if #ids == 0 then
		return nil, bad("bad-cursor", "`" .. field .. "` is missing or no text")
	end
	return ids, nil, object
end

-- The path for the node: the ids are in the body now.
local function path_of(c, path, without)
	local args = {}
	for name, value in pairs(c.args) do
		if not without[name] then
			args[name] = value
		end
	end
	local query = ngx.encode_args(args)
	return c.before .. path .. (query ~= "" and "?" .. query or "")
end

local SCROLL = { scroll = true, scroll_id = true }

function take.next(c)
	local ids, refusal, object = ids_of(c, "scroll_id", SCROLL)
	if not ids then
		return nil, refusal
	elseif #ids > 1 then
		return nil, bad("bad-cursor", "one scroll is continued at a time")
	end
	local cluster, raw = resolve(ids[1], c.partition)
	if not cluster then
		return nil, raw
	end
	c.cluster, c.given, c.key = cluster, { [raw] = ids[1] }, "_scroll_id"
	c.time = object.scroll or c.args.scroll
	if c.time ~= nil and type(c.time) ~= "string" then
		return nil, bad("bad-cursor", "`scroll` is a time, as \"1m\"")
	end
	c.uri = path_of(c, "/_search/scroll", SCROLL)
	send_body { scroll = c.time, scroll_id = raw }
	return ask_for_json(c)
end

-- Those of the ids that can be ended; one of another partition's, or none that is known: refused. All at one cluster.
local function ending(c, ids)
	local raws, refusal = {}, nil
	c.given = {}
	for i = 1, #ids do
		local cluster, raw = resolve(ids[i], c.partition)
		if not cluster and raw ~= M.MISSING then
			return nil, raw
		elseif cluster and c.cluster and cluster ~= c.cluster then
			return nil, bad("several-clusters", "these ids belong to different clusters: a request for each of them")
		elseif cluster then
			c.cluster, raws[#raws + 1], c.given[raw] = cluster, raw, ids[i]
		else
			refusal = raw
		end
	end
	c.release = raws
	if #raws == 0 then
		return nil, refusal
	end
	return raws
end

-- The request that ends what it names: `path` and the ids in `field` are what the node gets. c; nil, refusal.
local function end_them(c, path, field, known)
	local ids, refusal = ids_of(c, field, known)
	if not ids then
		return nil, refusal
	elseif c.pit and #ids > 1 then
		return nil, bad("bad-cursor", "one point in time is ended at a time")
	end
	local raws
	raws, refusal = ending(c, ids)
	if not raws then
		return nil, refusal
	end
	c.uri = path_of(c, path, known)
	send_body { [field] = c.pit and raws[1] or raws }
	return c
end

function take.clear(c)
	return end_them(c, "/_search/scroll", "scroll_id", SCROLL)
end

-- Ends points in time. OpenSearch: a list; Elasticsearch: one.
function take.close(c)
	local field = c.pit and "id" or "pit_id"
	local ended, refusal = end_them(c, c.pit and "/_pit" or "/_search/point_in_time", field, { [field] = true })
	if not ended then
		return nil, refusal
	end
	c.key, c.closes = not c.pit and "pit_id" or nil, true
	return ask_for_json(c)
end

-- c: as rules.cursor_of has it, with its partition. c, filled: `cluster` of a follow-up, `uri` where another is sent,
-- `given` (the node's ids, and the client's for them), `key` and `time` of the id that the answer may carry, `release`
-- (what it ends), `closes` (the answer lists points in time). nil: an ordinary request. nil, refusal.
function M.take(c)
	if c.args then
		local ok, refusal = check_source(c)
		if not ok then
			return nil, refusal
		end
	end
	return take[c.kind](c)
end

return M
