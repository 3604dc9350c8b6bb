#!lua flags=allow-oom
-- Takes out of the input stream what every consumer group has settled, and what is older than it has to be
-- kept; never an unread or pending entry of any group. A group that has not read yet keeps everything, and so
-- does the lack of the engine's own group, which was lost then. Predictions go by age, where that is asked
-- for. It runs when memory is used up, too: it makes room.
--
-- It also notes in the ledger what has to outlive the group (lua/regroup.lua), and what counting the unread
-- can start from (lua/backlog.lua).
--
-- KEYS[1] input stream   KEYS[2] its ledger   KEYS[3] predictions stream
-- ARGV[1] the engine's group  ARGV[2] events kept, ms
-- ARGV[3] predictions kept, ms; '' as long as their number allows
-- ARGV[4] entries taken out of either in one call, at most. Whole nodes go (100 entries, or 4 KiB of them),
--   so it must be well above the server's stream-node-max-entries
-- Returns {events taken out, predictions taken out, id below which events may go ('' when the group is
--   missing), 1 when another call may find more, else 0}
local input, ledger, predictions, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local limit = tonumber(ARGV[4])
local call = redis.call
local field = function(name) return group .. ':' .. name end

-- include info

-- include ids

-- An id below this one, with no id that Redis could have chosen between.
local function below(id)
  local ms, seq = id:match('(%d+)-(%d+)')
  local EXACT_DIGITS = 15
  if #seq > EXACT_DIGITS then return ms .. '-0' end
  if seq ~= '0' then return string.format('%s-%.0f', ms, tonumber(seq) - 1) end
  if ms == '0' or #ms > EXACT_DIGITS then return '0-0' end
  return string.format('%.0f-18446744073709551615', tonumber(ms) - 1)
end

local time = call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)
local function ago(ms) return string.format('%.0f-0', math.max(0, nowMs - tonumber(ms))) end

local kind = call('TYPE', input).ok
if kind == 'none' then return { 0, 0, '', 0 } end
if kind ~= 'stream' then return redis.error_reply('WRONGTYPE input key holds a ' .. kind) end

local own
local threshold = ago(ARGV[2])
for _, reply in ipairs(call('XINFO', 'GROUPS', input)) do
  local values = info(reply)
  local floor, settled = values['last-delivered-id'], values['last-delivered-id']
  if values.pending > 0 then
    local oldest = call('XPENDING', input, values.name)[2]
    -- A group that was set back has unread entries below what is pending.
    if not isBefore(floor, oldest) then
      floor = oldest
      settled = below(oldest)
    end
  end
  if values.name == group then
    own = values
    own.settled = settled
  end
  if isBefore(floor, threshold) then threshold = floor end
end
if not own then return { 0, 0, '', 0 } end

local stream = info(call('XINFO', 'STREAM', input))
local delivered, added = own['last-delivered-id'], stream['entries-added']
local known = call('HMGET', ledger, field('server'), field('floor'), field('last'), field('read'),
  field('added'))
local trusted = own['entries-read'] and known[1] == call('INFO', 'server'):match('run_id:(%x+)')
-- `last` and `read` are a pair: while Redis' count is not trusted, lua/backlog.lua moves them.
local last = (trusted or not known[4]) and delivered or known[3]
if own.settled ~= known[2] or last ~= known[3] or tostring(added) ~= known[5] then
  call('HSET', ledger, field('floor'), own.settled, field('last'), last, field('added'), added)
  if trusted then
    call('HSET', ledger, field('read'), own['entries-read'], field('deleted'), stream['max-deleted-entry-id'])
  end
end

local events = call('XTRIM', input, 'MINID', '~', threshold, 'LIMIT', limit)
local old = 0
if ARGV[3] ~= '' then old = call('XTRIM', predictions, 'MINID', '~', ago(ARGV[3]), 'LIMIT', limit) end
-- The limit is never met exactly, for the next node would go beyond it.
local more = (events * 2 > limit or old * 2 > limit) and 1 or 0
return { events, old, threshold, more }
