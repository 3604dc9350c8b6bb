#!lua flags=allow-oom
-- Looks whether the consumer group is there. Where it was lost (XGROUP DESTROY, DEL, FLUSHALL), the second
-- call makes it again, in one step: at the id up to which entries had been delivered, with those pending
-- that have no outcome yet, and a new epoch. While the group is missing nothing can be settled, for XACK
-- answers 0; so what was found out before this call still holds, unless another engine was faster. Then the
-- group is there; or it was lost once more since, and the epoch is another one.
--
-- It also runs when memory is used up: without the group nothing could be trimmed either.
--
-- KEYS[1] input stream   KEYS[2] its ledger
-- ARGV[1] group  ARGV[2] last delivered id, at which the group is made; '' to look only
-- ARGV[3] floor  ARGV[4] entries that had been read, '' when not known
-- ARGV[5] entries ever added to the stream when it was looked at  ARGV[6] the epoch then, '' for none
-- ARGV[7...] ids up to ARGV[2] that have to be served again
-- Returns {'there', epoch}; {'made', epoch};
--   {'missing', floor, last, read, added (of the ledger, '' where it says nothing), entries ever added, last
--     generated id, id of the first entry ('' without entries), server's Unix time in ms, epoch};
--   {'changed'} when the stream is not the one that was looked at: look again
local input, ledger, group, last = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local field = function(name) return group .. ':' .. name end
local call = redis.call

-- include info

local function nowMs()
  local time = call('TIME')
  return string.format('%d%03d', time[1], math.floor(time[2] / 1000))
end

-- include ids

local kind = call('TYPE', input).ok
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE input key holds a ' .. kind)
end
local stream = { ['entries-added'] = 0, ['last-generated-id'] = '0-0' }
if kind == 'stream' then
  for _, reply in ipairs(call('XINFO', 'GROUPS', input)) do
    if info(reply).name == group then
      local epoch = call('HGET', ledger, field('epoch'))
      if not epoch then
        epoch = nowMs()
        call('HSET', ledger, field('epoch'), epoch)
      end
      return { 'there', epoch }
    end
  end
  stream = info(call('XINFO', 'STREAM', input))
end
local added, generated = stream['entries-added'], stream['last-generated-id']

if last == '' then
  local known =
    call('HMGET', ledger, field('floor'), field('last'), field('read'), field('added'), field('epoch'))
  for i = 1, 5 do known[i] = known[i] or '' end
  local first = stream['first-entry'] and stream['first-entry'][1] or ''
  return { 'missing', known[1], known[2], known[3], known[4], added, generated, first, nowMs(), known[5] }
end

local epoch = call('HGET', ledger, field('epoch'))
if added < tonumber(ARGV[5]) or isBefore(generated, last) or (epoch or '') ~= ARGV[6] then
  return { 'changed' }
end
local create = { 'XGROUP', 'CREATE', input, group, last, 'MKSTREAM' }
if ARGV[4] ~= '' then
  create[7], create[8] = 'ENTRIESREAD', ARGV[4]
end
call(unpack(create))

-- Nobody's, and idle for ten years: the next claim of any engine takes them. Lua's stack holds about 8,000
-- values.
local PIECE, IDLE_MS = 1000, '315360000000'
for from = 7, #ARGV, PIECE do
  local claim = { 'XCLAIM', input, group, 'unsettled', 0 }
  for i = from, math.min(from + PIECE - 1, #ARGV) do claim[#claim + 1] = ARGV[i] end
  for _, option in ipairs({ 'IDLE', IDLE_MS, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID' }) do
    claim[#claim + 1] = option
  end
  call(unpack(claim))
end

-- `server`, under which Redis' own count of read entries can be trusted, is left out: lua/backlog.lua counts.
call('HDEL', ledger, field('read'), field('server'))
-- What was delivered after `last` is unread again, and may be in somebody's hands as well: lua/commit.lua.
-- Also where there is no ledger: a failover may have lost that.
local history = call('INFO', 'replication'):match('master_replid:(%x+)')
call('HSET', ledger, field('contested'), generated, field('history'), history)
call('HSET', ledger, field('floor'), ARGV[3], field('last'), last, field('added'), added)
if ARGV[4] ~= '' then call('HSET', ledger, field('read'), ARGV[4]) end
if epoch then
  epoch = call('HINCRBY', ledger, field('epoch'), 1)
else
  epoch = nowMs()
  call('HSET', ledger, field('epoch'), epoch)
end
return { 'made', tostring(epoch) }
