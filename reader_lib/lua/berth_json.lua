-- SPDX-License-Identifier: MIT
-- Finds one string in a JSON text by its path, and may replace it, while the text passes in pieces. Everything else
-- passes as it came, byte for byte: decoding and encoding a search's answer would change numbers and the order of keys.
-- Called by berth_cursors.lua in nginx's body filter and on bodies of requests. Pure, no I/O. It does not check that the
-- text is JSON: for a text that somebody may have made up to mislead, do that first (cjson).
--
-- Why the place is right: quotes, braces, brackets, colons and commas outside of strings are all that JSON's structure is
-- made of, and a string ends at the first quote that no backslash precedes (counted in pairs). Both are followed from the
-- first byte on, over the ends of pieces. A value is taken only when each container around it was entered through the key
-- that the path names, so a field of the same name in a document, however deep, before or behind, is none; keys are
-- compared after their escapes are undone. In UTF-8 no byte of a longer character looks like one of these signs.
local cjson = require "cjson"
local byte, find, sub, concat = string.byte, string.find, string.sub, table.concat

local HELD_MAX = 65536 -- bytes of one string that are held back: no id is as long
local QUOTE, BACKSLASH, COLON, COMMA, BRACE, BRACKET = 34, 92, 58, 44, 123, 91

local J = {}
J.__index = J
local M = {}

-- path: keys from the outermost object on; "*" stands for each element of an array. found(text): called for each string
-- there, decoded; returns the text to put in its place (any bytes), nil to leave it, or nil and why to give up.
function M.new(path, found)
	return setmetatable({ path = path, found = found, depth = 0, object = {}, live = { true }, hit = {}, hits = {},
			      key = false, held = "", inside = false, escaped = false, ended = false }, J)
end

-- The end of the string whose bytes go on at i: the place of its closing quote. nil, escaped: not in this text.
local function string_end(text, i)
	while true do
		local e = find(text, '["\\]', i)
		if not e then
			return nil, false
		elseif byte(text, e) == QUOTE then
			return e
		elseif e == #text then
			return nil, true
		end
		i = e + 2
	end
end

-- quoted: with its quotes.
local function decode(quoted)
	if not find(quoted, "\\", 1, true) then
		return sub(quoted, 2, -2)
	end
	local ok, list = pcall(cjson.decode, "[" .. quoted .. "]")
	return ok and list[1] or nil
end

local function open(self, is_object)
	local d = self.depth + 1
	self.live[d] = d == 1 or self.live[d - 1] and self.hit[d - 1] and d <= #self.path
	self.depth, self.object[d], self.key = d, is_object, is_object
	self.hit[d] = not is_object and self.path[d] == "*"
end

-- A whole string in a container that the path goes through. What to write; nil, why.
local function take(self, quoted)
	local d = self.depth
	if self.key then
		local hit = decode(quoted) == self.path[d]
		self.hit[d] = hit
		self.hits[d] = (self.hits[d] or 0) + (hit and 1 or 0)
	elseif self.hit[d] and d == #self.path then
		local text = decode(quoted)
		if not text then
			return nil, "the id has an escape that is none"
		end
		local other, why = self.found(text)
		if why then
			return nil, why
		end
		return other and cjson.encode(other) or quoted
	end
	return quoted
end

-- Takes the next piece; last: there are no more. Returns what may go on; it is the piece itself when nothing was changed
-- or held back. nil, why: given up; what is held back must not go out.
function J:feed(piece, last)
	local text = self.held ~= "" and self.held .. piece or piece
	local out, from, i = nil, 1, 1
	self.held = ""
	if self.inside then
		local e, escaped = string_end(text, self.escaped and 2 or 1)
		if self.escaped and text == "" then
			return text
		end
		self.inside, self.escaped = not e, escaped
		i = e and e + 1 or #text + 1
	end
	while i <= #text do
		local live = self.depth > 0 and self.live[self.depth]
		local p = find(text, live and '["{}%[%]:,]' or '["{}%[%]]', i)
		if not p then
			break
		end
		local c = byte(text, p)
		i = p + 1
		if c == QUOTE then
			local e, escaped = string_end(text, i)
			local wanted = live and (self.key or self.hit[self.depth] and self.depth == #self.path)
			if not e and wanted then
				if last or #text - p > HELD_MAX then
					return nil, "a string is cut off, or longer than " .. HELD_MAX .. " bytes"
				end
				self.held = sub(text, p)
				text = sub(text, 1, p - 1)
				break
			elseif not e then
				self.inside, self.escaped = true, escaped
				break
			elseif wanted then
				local quoted = sub(text, p, e)
				local new, why = take(self, quoted)
				if not new then
					return nil, why
				elseif new ~= quoted then
					out = out or {}
					out[#out + 1] = sub(text, from, p - 1)
					out[#out + 1] = new
					from = e + 1
				end
			end
			i = e + 1
		elseif c == COLON then
			self.key = false
		elseif c == COMMA then
			self.key = self.object[self.depth]
		elseif c == BRACE or c == BRACKET then
			open(self, c == BRACE)
		else
			self.depth = self.depth - 1
			self.key = false
			if self.depth <= 0 then
				if self.depth < 0 then
					return nil, "a bracket too many"
				end
				self.ended = true
			end
		end
	end
	if not out then
		return text
	end
	out[#out + 1] = sub(text, from)
	return concat(out)
end

return M
