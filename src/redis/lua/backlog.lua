#!lua flags=allow-oom
-- How many entries nobody has read, and how many are read and not settled. Redis counts what a group has
-- read (`lag` says how much is left), but it loses count: after a restart from an AOF, after a failover, and
-- when unread entries are deleted. It may then say nothing, or, once somebody has put its count right,
-- something wrong. So its count is trusted only on the server process on which it was last found right here
-- (`server` in the ledger). Otherwise entries are counted, a page per call, and Redis is told what came out.
--
-- Counted is from `last` and `read` of the ledger, a pair that is true for ever: so many entries had ever
-- been added up to that id. Without such a pair it begins before the first entry that is still in the stream.
-- Each call moves the pair nearer to the last delivered id. (Entries that are deleted between the two are
-- counted as unread until the count begins anew, at the latest when nothing is unread.)
--
-- KEYS[1] input stream   KEYS[2] its ledger
-- ARGV[1] group
-- ARGV[2] entries counted at most, some 4 us each: so many up to the last delivered one, and so many after it
-- Returns {unread, pending, oldest unread id or '', oldest pending id or '', epoch or '', how}; `how` is
--   'exact'; 'estimate': there may be fewer, and another call knows better; 'group': there is no such group,
--   unread is all that is in the stream; 'stream': there is no such stream
local input, ledger, group, PAGE = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local call = redis.call
local field = function(name) return group .. ':' .. name end

-- include info

-- include ids

local epoch = call('HGET', ledger, field('epoch')) or ''
local kind = call('TYPE', input).ok
if kind == 'none' then return { 0, 0, '', '', epoch, 'stream' } end
if kind ~= 'stream' then return redis.error_reply('WRONGTYPE input key holds a ' .. kind) end

local stream = info(call('XINFO', 'STREAM', input))
local added, length, deleted = stream['entries-added'], stream.length, stream['max-deleted-entry-id']
local first = stream['first-entry'] and stream['first-entry'][1] or ''
local found
for _, reply in ipairs(call('XINFO', 'GROUPS', input)) do
  local values = info(reply)
  if values.name == group then found = values end
end
if not found then return { length, 0, first, '', epoch, 'group' } end
local delivered, lag = found['last-delivered-id'], found.lag
local oldestPending = found.pending > 0 and call('XPENDING', input, group)[2] or ''
local unreadEntry = call('XRANGE', input, '(' .. delivered, '+', 'COUNT', 1)[1]
local oldestUnread = unreadEntry and unreadEntry[1] or ''

local function answer(unread, how)
  return { unread, found.pending, oldestUnread, oldestPending, epoch, how }
end

local known = call('HMGET', ledger, field('server'), field('last'), field('read'), field('deleted'),
  field('added'))
local server = call('INFO', 'server'):match('run_id:(%x+)')

-- Redis is told where it said something else; its last delivered id stays what it is.
local function exactly(unread)
  if lag ~= unread then call('XGROUP', 'SETID', input, group, delivered, 'ENTRIESREAD', added - unread) end
  if lag ~= unread or known[1] ~= server then
    call('HSET', ledger, field('server'), server, field('last'), delivered, field('read'), added - unread,
      field('deleted'), deleted)
  end
  return answer(unread, 'exact')
end

if oldestUnread == '' then return exactly(0) end
if lag and known[1] == server and lag > 0 and lag <= length then return answer(lag, 'exact') end

local last, read = known[2], tonumber(known[3])
-- Entries after `last` that were trimmed or deleted are missing from the count; and the stream may be another
-- than the one that was counted.
local usable = last and read and not isBefore(delivered, last) and not isBefore(last, first)
  and (tonumber(known[5]) or 0) <= added
if not usable or (deleted ~= known[4] and isBefore(last, deleted)) then
  last, read = '0-0', added - length
end
local page = call('XRANGE', input, '(' .. last, delivered, 'COUNT', PAGE)
read = read + #page
last = #page < PAGE and delivered or page[PAGE][1]
local unread = math.min(added - read, length)

if last ~= delivered or unread <= PAGE then
  local after = #call('XRANGE', input, '(' .. delivered, '+', 'COUNT', PAGE)
  if after < PAGE then return exactly(after) end
  if unread < after then
    call('HDEL', ledger, field('read'))
    return answer(length, 'estimate')
  end
end
if last == delivered then return exactly(unread) end
call('HSET', ledger, field('last'), last, field('read'), read, field('deleted'), deleted)
return answer(unread, 'estimate')
