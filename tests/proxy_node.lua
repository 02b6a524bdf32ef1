-- SPDX-License-Identifier: MIT
-- What the nodes of proxy_place.c answer when X-Do begins with `node`: scrolls and points in time as OpenSearch has them,
-- each known to the cluster alone that made it. Every answer tells the cluster (its port), and whose data it is: the
-- partition that opened the cursor. And calls of berth.lua and berth_seal.lua, straight from here. One worker, one state.
--
-- Words after `node`:  new    each continue has an id of its own       late   the id comes after the hits
--                      gzip   the answer says that it is compressed    plain  it is no JSON
--                      slow   sends its answer in small pieces         long=N an id of so many bytes
--                      wait=N answers after so many ms
local cjson = require "cjson"

local contexts, made, asked = {}, 0, 0
local M = {}

local function missing(id)
	ngx.status = 404
	ngx.header["Content-Type"] = "application/json"
	ngx.print(cjson.encode { error = { type = "search_context_missing_exception", reason = "port=" .. ngx.var.server_port ..
		" has no context " .. tostring(id) }, status = 404 })
end

local function new_id(act, port)
	made = made + 1
	local id = "DXF1ZXJ5/+" .. ngx.encode_base64(port .. ":" .. made .. string.rep(":shard", 5)) .. "=="
	local long = tonumber(act:match("long=(%d+)") or 0)
	return #id < long and id .. string.rep("x", long - #id) or id
end

local function of(id)
	local context = contexts[id]
	return context and context.port == ngx.var.server_port and context or nil
end

-- Numbers, keys and spaces that a decoder would not give back; fields of the same name before and behind.
local function answer(act, key, id, owner)
	local named = key and '"' .. key .. '" : ' .. cjson.encode(id) .. "," or ""
	local late = act:find("late", 1, true)
	local text = "{" .. (late and "" or named) .. '"took":1.50e0,"z":1234567890123456789, "hits":{"' .. (key or "x") ..
		'":"decoy-1","hits":[{"_source":{"_scroll_id":"decoy-2","pit_id":"decoy-3","t":"\\"_scroll_id\\":\\"decoy-4\\"}"}}]},' ..
		(late and named or "") .. '"cluster":"port=' .. ngx.var.server_port .. ' ","data":"of ' .. owner .. '","asked":' ..
		cjson.encode(ngx.var.request_uri) .. ',"encoding":"' .. (ngx.var.http_accept_encoding or "") ..
		'","epoch":"' .. (ngx.var.http_x_berth_epoch or "") .. '","end":{"_scroll_id":"decoy-5"}}\n'
	ngx.header["Content-Type"] = act:find("plain", 1, true) and "text/plain" or "application/json; charset=UTF-8"
	if act:find("gzip", 1, true) then
		ngx.header["Content-Encoding"] = "gzip"
	end
	if act:find("slow", 1, true) then
		for i = 1, #text, 7 do
			ngx.print(text:sub(i, i + 6))
			ngx.flush(true)
		end
	else
		ngx.header["Content-Length"] = #text
		ngx.print(text)
	end
end

local function body()
	ngx.req.read_body()
	local text = ngx.req.get_body_data()
	local ok, object = pcall(cjson.decode, text)
	return ok and object or {} -- _msearch has lines
end

local function continue(act, key, id)
	local context = of(id)
	if not context then
		return missing(id)
	end
	if act:find("new", 1, true) then
		contexts[id], id = nil, new_id("", context.port)
		contexts[id] = context
	end
	return answer(act, key, id, context.owner)
end

local function open(act, key)
	local id = new_id(act, ngx.var.server_port)
	contexts[id] = { port = ngx.var.server_port, owner = ngx.var.http_x_partition }
	return answer(act, key, id, ngx.var.http_x_partition)
end

local function close(ids, list)
	local freed, rows = 0, {}
	for i, id in ipairs(type(ids) == "table" and ids or { ids }) do
		rows[i] = { successful = of(id) ~= nil, pit_id = id }
		if of(id) then
			freed, contexts[id] = freed + 1, nil
		end
	end
	ngx.status = freed > 0 and 200 or 404
	ngx.header["Content-Type"] = "application/json"
	ngx.print(cjson.encode(list and { pits = rows } or { succeeded = true, num_freed = freed }))
end

function M.serve(act)
	local method, uri, args = ngx.req.get_method(), ngx.var.uri, ngx.req.get_uri_args()
	if uri == "/asked" then -- how many requests came until here
		return ngx.print('{"asked":', asked, "}")
	end
	asked = asked + 1
	ngx.sleep((tonumber(act:match("wait=(%d+)")) or 0) / 1000)
	local b = body()
	if uri == "/_search/scroll" then
		if method == "DELETE" then
			return close(b.scroll_id or args.scroll_id)
		end
		return continue(act, "_scroll_id", b.scroll_id or args.scroll_id)
	elseif uri:find("/_search/point_in_time$") then
		if method == "DELETE" then
			return close(b.pit_id, true)
		end
		return open(act, "pit_id")
	elseif uri:find("/_pit$") then
		if method == "DELETE" then
			return close(b.id)
		end
		return open(act, "id")
	elseif b.pit then
		return continue(act, "pit_id", b.pit.id)
	elseif args.scroll then
		return open(act, "_scroll_id")
	end
	return answer(act, nil, nil, ngx.var.http_x_partition)
end

-- ---- the bindings, without a proxy ----------------------------------------------------------------------------------

local calls = {}

-- Every bit of an envelope changed, one at a time; also every byte left out, and one put in.
function calls.flip(_, arg)
	local seal = require "berth_seal"
	local s = assert(seal.open(arg.keys))
	local envelope = arg.envelope or assert(s:seal("c1", arg.p, arg.id))
	local n, opened = 0, 0
	local function try(text)
		n = n + 1
		opened = opened + (s:unseal(text, arg.p) and 1 or 0)
	end
	assert(s:unseal(envelope, arg.p))
	for i = 1, #envelope do
		local before, c, after = envelope:sub(1, i - 1), envelope:byte(i), envelope:sub(i + 1)
		for bit_ = 0, 7 do
			try(before .. string.char(bit.bxor(c, bit.lshift(1, bit_))) .. after)
		end
		try(before .. after)
		try(before .. "A" .. envelope:sub(i))
	end
	for i = 0, #envelope - 1 do
		try(envelope:sub(1, i))
	end
	local cluster, id = s:unseal(envelope, arg.p)
	local _, foreign = s:unseal(envelope, arg.p .. "x")
	ngx.print("tried ", n, " opened ", opened, " length ", #envelope, " cluster ", cluster, " same ",
		tostring(id == arg.id), " foreign ", foreign)
	s:close()
end

-- Pins, by a process that attaches on its own.
function calls.pins(dir, arg)
	local berth = require "berth"
	local b = assert(berth.attach(dir, { writes = "none", cursors = "pin" }))
	local function say(...)
		ngx.print(...)
		ngx.print("\n")
	end
	say("unknown ", select(2, b:cursor_resolve("nothing", "p")))
	say("pin ", b:cursor_pin("id-1", 1, "p", 60000, 2000), " resolve ", b:cursor_resolve("id-1", "p"))
	say("foreign ", select(2, b:cursor_resolve("id-1", "q")), " ", select(2, b:cursor_pin("id-1", 2, "q", 60000, 2000)), " ",
		select(2, b:cursor_release("id-1", "q")))
	say("again ", b:cursor_pin("id-1", 2, "p", nil, 2000), " resolve ", b:cursor_resolve("id-1", "p"))
	say("no cluster ", select(2, b:cursor_pin("id-2", 999, "p", 60000, 2000)))
	say("empty ", select(2, b:cursor_pin("", 1, "p", 60000, 2000)), " long ",
		select(2, b:cursor_pin(("x"):rep(4097), 1, "p", 60000, 2000)))
	say("async ", b:cursor_pin("id-3", 3, "p", 60000))
	local found, tries = nil, 0
	while not found and tries < 2000 do
		found, tries = b:cursor_resolve("id-3", "p"), tries + 1
		ngx.sleep(0.001)
	end
	say("later ", found, " len ", b:cursor_len() >= 2)
	say("release ", b:cursor_release("id-1", "p"), " ", select(2, b:cursor_resolve("id-1", "p")), " ",
		select(2, b:cursor_release("id-1", "p")))
	say("cluster ", b:cluster_number("c2"), " ", b:cluster_number("c2"), " ", tostring(b:cluster_number("nowhere")))
	b:cursor_release("id-3", "p")
	local off = assert(berth.attach(dir, { writes = "none" }))
	say("off ", select(2, off:cursor_resolve("id-3", "p")), " ", select(2, off:cursor_pin("id-3", 1, "p", 1, 1)))
	say("close ", b:close(), " ", off:close(), " ", pcall(berth.attach, dir, { cursors = "often" }))
end

-- berth_json.lua over texts in pieces of every size: what it finds, and that it changes nothing else.
function calls.scan()
	local json = require "berth_json"
	local function run(text, path, size, by)
		local found, out = {}, {}
		local scan = json.new(path, function(id)
			found[#found + 1] = id
			return by
		end)
		for i = 1, #text, size do
			local piece, why = scan:feed(text:sub(i, i + size - 1), i + size > #text)
			if not piece then
				return nil, why
			end
			out[#out + 1] = piece
		end
		return table.concat(out), table.concat(found, ",")
	end
	local id = { "_scroll_id" }
	local texts = {
		{ [==[{"took":1,"a\"_scroll_id":"no","hits":{"_scroll_id":"in1","h":[{"x":"}]]\\"}},"_scroll_id",["_scroll_id","q"]},]==]
			.. [==["_scroll\u005fid" : "RE\/AL==" , "n":1.50e0,"z":{"_scroll_id":"in3"}}]==], id, "RE/AL==", '"RE\\/AL=="' },
		{ [==[{"pits":[{"ok":true,"pit_id":"A"},{"pit_id":"B","x":[{"pit_id":"no"}]},["no"]],"pit_id":"no"}]==],
			{ "pits", "*", "pit_id" }, "A,B", '"[AB]"' },
		{ '{"_scroll_id":["no"],"x":"_scroll_id","y":{"_scroll_id":"no"}}', id, "", "none" },
		{ '["_scroll_id","no"]', id, "", "none" },
		{ '{"a":"\\\\","_scroll_id":"\195\164\\\\\\"b"}', id, '\195\164\\"b', '"\195\164.*b"' },
	}
	for i, t in ipairs(texts) do
		local text = t[1]
		for size = 1, #text do
			local same, found = run(text, t[2], size)
			local other = run(text, t[2], size, "NEW/")
			local expected = text:gsub(t[4], '"NEW\\/"')
			if same ~= text or found ~= t[3] or other ~= expected then
				return ngx.print("text ", i, " in pieces of ", size, ": found ", found, ", made ", other, " of ", text)
			end
		end
	end
	for _, text in ipairs { '{"_scroll_id":"cut', '{"_scroll_id":"\\q"}', '{}}', '{"' .. ("x"):rep(70000) } do
		if run(text, id, 5000) then
			return ngx.print("took ", text)
		end
	end
	ngx.print("all as they should be")
end

-- Times and kinds, as berth_rules.lua reads them.
function calls.time(_, arg)
	ngx.print("ms ", tostring(require("berth_rules").time_ms(arg.t)), " ")
end

-- An attachment of its own: its clusters go between two calls, it is closed while a write is under way, and used when it
-- is closed.
function calls.closing(dir, arg)
	local berth = require "berth"
	local b = assert(berth.attach(dir, { writes = "bracketed" }))
	local w, lib, gone = berth.new_write(), b.lib, 1
	local function code(_, why)
		return why
	end
	b.lib = setmetatable({}, { __index = function(_, name)
		if name == "berth_cluster" and gone > 0 then
			gone = gone - 1
			return function()
				return berth.E_UNKNOWN
			end
		end
		return lib[name]
	end })
	ngx.say("moved once ", b:lookup(arg.p) ~= nil)
	gone = math.huge
	ngx.say("moved on ", code(b:lookup(arg.p)))
	b.lib = lib
	ngx.say("nobody ", code(b:lookup("nobody-at-all")))
	ngx.say("begin ", b:write_begin(w, arg.p))
	ngx.say("busy ", code(b:close()), " ", code(b:close()))
	ngx.say("open ", b:lookup(arg.p) ~= nil, " ", b:endpoint(w.cluster) ~= nil)
	ngx.say("end ", b:write_end(w, berth.DONE), " close ", b:close(), " again ", b:close())
	ngx.say("closed ", code(b:lookup(arg.p)), " ", code(b:endpoint(1)), " ", tostring(b:cluster_number("c1")), " ",
		code(b:route(arg.p)), " ", code(b:write_begin(w, arg.p)), " ", code(b:maintain()), " ", b:maintain_fd())
end

function M.call(dir)
	ngx.req.read_body()
	calls[ngx.var.uri:match("[^/]+$")](dir, ngx.req.get_uri_args())
end

return M
